// The fused kernel on the fiber shim: against float64, and against the layers bit for bit. What it does with rows that
// are not finite, overflow or have no norm is in test_upgrade_simt.cpp, where the layers answer the same questions.
#include "upgrade_support.hpp"

namespace fct::cuda::testing {
namespace {

// Both kernels; branches that start or end in mid-step; inputs that are read one by one and four at a time.
void check_fused() {
  DeviceFacts device{.compute = 90, .multiprocessors = 3, .shared_bytes = 227 * 1024, .memory_bytes = 0};
  const Transform odd = Transform::standard(19, 7, 23, 45, true), usual = Transform::standard(32, 32, 32, 128, false);
  const Transform alone = Transform::standard(33, 0, 17, 70, false), deep = Transform::standard(16, 0, 16, 200, true);
  Transform mid_step{8, 16, 12, false, {}, {}};  // the concatenation is 24 wide, its last branch whole steps
  mid_step.add_branch(8, {8});
  mid_step.add_branch(16, {16, 16});
  mid_step.add_trunk(24, {40, 12});
  uint32_t seed = 700;
  const auto check = [&](const Transform& h, int64_t rows, Dtype input_dtype, Dtype out_dtype, int64_t gap) {
    for (Dtype precision : {Dtype::f16, Dtype::bf16}) {
      Options fused{.precision = precision, .out_dtype = out_dtype, .device = device, .fuse = true, .seed = seed += 10};
      Options layers = fused;
      layers.fuse = false;
      layers.like_rows = kMany;
      CallerRows old(rows, h.old_dim, input_dtype, gap), side(rows, std::max<int64_t>(h.side_dim, 1), input_dtype, gap);
      old.fill(seed);
      side.fill(seed + 1);
      const Result one = run(h, old, side, fused), many = run(h, old, side, layers);
      CHECK(std::memcmp(one.out.bytes, many.out.bytes, static_cast<std::size_t>(one.out.size())) == 0);
      CHECK(one.status == many.status);
      if (h.uncertainty) CHECK(one.uncertainty == many.uncertainty);
      check_against_oracle(h, rows, fused, input_dtype, gap);
    }
  };
  for (int64_t rows : {0, 1, 31, 33, 127, 128, 129}) check(odd, rows, Dtype::f32, Dtype::f32, 3);
  for (Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) check(usual, 70, dtype, Dtype::f32, 4);
  check(alone, 65, Dtype::f16, Dtype::f16, 1);
  check(deep, 33, Dtype::bf16, Dtype::bf16, 0);
  check(other_form(), 50, Dtype::f32, Dtype::f32, 3);
  check(mid_step, 40, Dtype::f32, Dtype::f32, 0);
  // One block of four warps and five tiles: a warp takes a second one.
  device.multiprocessors = 1;
  device.shared_bytes = 164 * 1024;
  check(usual, 32 * 4 + 10, Dtype::f32, Dtype::f32, 0);
}

}  // namespace
}  // namespace fct::cuda::testing

int main() {
  fct::cuda::testing::check_fused();
  return 0;
}
