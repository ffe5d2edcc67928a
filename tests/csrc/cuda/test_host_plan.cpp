// Plans of calls on host arrays, without a device: chunks, slots, what crosses the link, and the bound on memory.
#include "check.hpp"
#include "core/error.hpp"
#include "cuda/upgrade/host_plan.hpp"

namespace fct::cuda {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr DeviceFacts kDevice{.compute = 90, .multiprocessors = 132, .shared_bytes = 227 * 1024, .memory_bytes = 0};

TransformLayout layout(int64_t old_dim, int64_t side_dim, int64_t new_dim, Dtype precision, bool uncertainty = false) {
  static const std::vector<float> zeros(4096 * 4096);
  const auto layer = [](int64_t in, int64_t out, bool relu) {
    return LayerSource{.weight = zeros.data(), .bias = zeros.data(), .in_dim = in, .out_dim = out, .relu = relu};
  };
  TransformSource source{old_dim, side_dim, new_dim, true, uncertainty, Precision::fp32, {}, {}};
  source.branches.push_back({.reads_side = false, .layers = {layer(old_dim, 64, true)}});
  if (side_dim > 0) source.branches.push_back({.reads_side = true, .layers = {layer(side_dim, 64, true)}});
  source.trunk = {layer(side_dim > 0 ? 128 : 64, 2048, true), layer(2048, new_dim + uncertainty, false)};
  return layout_of(source, precision);
}

void check_one(const TransformLayout& h, const HostShape& shape, int64_t limit) {
  const HostPlan plan = plan_host(h, kDevice, shape, limit);
  CHECK(plan.device_bytes() <= limit);
  CHECK(plan.slot_bytes <= 33 * kMiB);
  CHECK(plan.chunk_rows == plan.chunk.chunk_rows && plan.chunk_rows >= 1);
  const int64_t chunks = (shape.rows + plan.chunk_rows - 1) / plan.chunk_rows;
  CHECK(plan.slots == std::min<int64_t>(chunks, kHostSlots));
  if (chunks > 1 && limit > 100 * kMiB) CHECK(plan.chunk_rows % 128 == 0);
  // Parts lie apart, at aligned starts, each large enough.
  const int64_t ends[] = {plan.old_at + plan.chunk_rows * h.old_dim * size_of(plan.old_link),
                          plan.side_at + plan.chunk_rows * h.side_dim * size_of(plan.side_link),
                          plan.out_at + plan.chunk_rows * h.new_dim * size_of(shape.out_dtype),
                          plan.uncertainty_at + (h.uncertainty ? plan.chunk_rows * 4 : 0),
                          plan.status_at + plan.chunk_rows};
  const int64_t starts[] = {plan.side_at, plan.out_at, plan.uncertainty_at, plan.status_at, plan.slot_bytes};
  for (int i = 0; i < 5; ++i) CHECK(ends[i] <= starts[i] && starts[i] % 256 == 0);
}

void check_bounds() {
  for (Dtype precision : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    for (int64_t rows : {int64_t{1}, int64_t{127}, int64_t{16384}, int64_t{16385}, int64_t{1000003}}) {
      for (int64_t limit : {2 * kMiB, 17 * kMiB, 200 * kMiB, 2048 * kMiB}) {
        check_one(layout(128, 64, 128, precision), {.rows = rows, .old_dtype = Dtype::f32}, limit);
        check_one(layout(33, 0, 17, precision, true), {.rows = rows, .out_dtype = Dtype::f16}, limit);
        check_one(layout(4096, 7, 2048, precision), {.rows = rows, .side_dtype = Dtype::bf16}, limit);
      }
    }
  }
}

void check_chunks() {
  const TransformLayout h = layout(128, 64, 128, Dtype::f16);
  const HostPlan one = plan_host(h, kDevice, {.rows = 100}, 2048 * kMiB);
  CHECK(one.chunk_rows == 100 && one.slots == 1);
  const HostPlan many = plan_host(h, kDevice, {.rows = 1 << 20}, 2048 * kMiB);
  CHECK(many.chunk_rows == 16384 && many.slots == 3);
  const HostPlan short_of = plan_host(h, kDevice, {.rows = 1 << 20}, 64 * kMiB);
  CHECK(short_of.chunk_rows < many.chunk_rows);
  const HostPlan wide = plan_host(layout(4096, 4096, 4096, Dtype::f16), kDevice, {.rows = 1 << 20}, 2048 * kMiB);
  CHECK(wide.chunk_rows < 16384);
  CHECK_THROWS(plan_host(h, kDevice, {.rows = 10}, 1000), DeviceError);
}

// What is wider than the compute type is cast before the link, and nothing else.
void check_link() {
  CHECK(link_dtype(Dtype::f32, Dtype::f16) == Dtype::f16 && link_dtype(Dtype::f32, Dtype::bf16) == Dtype::bf16);
  CHECK(link_dtype(Dtype::bf16, Dtype::f16) == Dtype::bf16 && link_dtype(Dtype::f16, Dtype::f32) == Dtype::f16);
  CHECK(link_dtype(Dtype::f32, Dtype::f32) == Dtype::f32);
  const HostPlan plan = plan_host(layout(128, 64, 128, Dtype::f16), kDevice, {.rows = 16384}, 2048 * kMiB);
  CHECK(plan.side_at == 16384 * 128 * 2);
}

// Kernels chosen as for many rows are of one family however few rows there are.
void check_family() {
  const auto family = [](Dtype precision, int64_t rows, int64_t like_rows) {
    return plan_upgrade(layout(128, 128, 128, precision), kDevice, rows, 2048 * kMiB, like_rows).family();
  };
  for (Dtype precision : {Dtype::f16, Dtype::bf16}) {
    CHECK(family(precision, 100000, 0) == "layers wgmma");
    CHECK(family(precision, 1, 0) == "layers small:0,1,2,3 split:3x16");
    for (int64_t rows : {1, 100, 5000, 1000000}) CHECK(family(precision, rows, 1 << 17) == "layers wgmma");
    const HostShape few{.rows = 3, .like_rows = 1 << 17};
    CHECK(plan_host(layout(128, 128, 128, precision), kDevice, few, 2048 * kMiB).chunk.family() == "layers wgmma");
    // By the whole call's rows, not by those of a chunk.
    CHECK(plan_host(layout(128, 128, 128, precision), kDevice, {.rows = 1 << 17}, 3 * kMiB).chunk.family() ==
          "layers wgmma");
  }
  CHECK(family(Dtype::f32, 1, 0) == "layers");  // every tile sums in one order
}

}  // namespace
}  // namespace fct::cuda

int main() {
  fct::cuda::check_bounds();
  fct::cuda::check_chunks();
  fct::cuda::check_link();
  fct::cuda::check_family();
  return 0;
}
