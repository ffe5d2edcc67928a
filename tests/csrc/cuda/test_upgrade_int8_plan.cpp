// Layout and plan of int8, with no device: what is bytes and what float32, tiles, buffers, cuts, and what is refused.
#include <cstring>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/error.hpp"
#include "cuda/upgrade/args.hpp"
#include "cuda/upgrade/plan.hpp"

namespace fct::cuda {
namespace {

constexpr DeviceFacts kH200{.compute = 90, .multiprocessors = 132, .shared_bytes = 227 * 1024, .memory_bytes = 0};
constexpr DeviceFacts kA10{.compute = 86, .multiprocessors = 72, .shared_bytes = 99 * 1024, .memory_bytes = 0};
constexpr int64_t kGigabyte = int64_t{1} << 30;

const int8_t kSomeBytes[1] = {};
const float kSomeFloats[1] = {};

// Shapes alone: weights are not read by a plan.
LayerSource layer(int64_t in, int64_t out, bool reads_bytes, bool narrow) {
  return {.weight = reads_bytes ? nullptr : kSomeFloats,
          .bias = kSomeFloats,
          .in_dim = in,
          .out_dim = out,
          .relu = narrow,
          .quantized = reads_bytes ? kSomeBytes : nullptr,
          .scale = reads_bytes ? kSomeFloats : nullptr,
          .narrow = narrow};
}

TransformSource standard(int64_t old_dim, int64_t side_dim, int64_t new_dim, int64_t inner) {
  TransformSource source{old_dim, side_dim, new_dim, true, false, Precision::int8, {}, {}};
  source.branches.push_back(
      {false, {layer(old_dim, 2 * old_dim, false, true), layer(2 * old_dim, 2 * new_dim, true, true)}});
  if (side_dim > 0)
    source.branches.push_back(
        {true, {layer(side_dim, 2 * side_dim, false, true), layer(2 * side_dim, 2 * new_dim, true, true)}});
  source.trunk = {layer(new_dim * (side_dim > 0 ? 4 : 2), inner, true, true), layer(inner, inner, true, true),
                  layer(inner, new_dim, true, false)};
  return source;
}

UpgradePlan plan(const TransformSource& source, const DeviceFacts& device, int64_t rows) {
  return plan_upgrade(layout_of(source, Dtype::f16), device, rows, 4 * kGigabyte);
}

void check_steps() {
  const UpgradePlan made = plan(standard(128, 64, 128, 2048), kH200, 262144);
  CHECK(made.layout.int8 && made.layout.precision == Dtype::f32);
  const std::string text = made.text();
  for (const char* part : {"int8, 262144 rows", "layer 128 -> 256 relu to bytes, input -> pong, tile square",
                           "layer 256 -> 256 relu bytes to bytes, pong -> ping,", "pong -> ping+256",
                           "layer 2048 -> 2048 relu bytes to bytes, pong -> ping, tile wgmma wide 128x256, 4 stages",
                           "layer 2048 -> 128 bytes, ping -> last, tile wgmma narrow"}) {
    if (text.find(part) == std::string::npos) {
      std::fprintf(stderr, "no '%s' in\n%s", part, text.c_str());
      std::exit(1);
    }
  }
  for (const Step& step : plan(standard(128, 64, 128, 2048), kA10, 1).steps) {
    if (step.kind == Step::Kind::layer) CHECK(step.tile == TileName::small && step.splits == 1);
  }
}

// Buffers lie apart and hold what their steps write, each row in whole chunks of its own element.
void check_buffers() {
  for (const TransformSource& h : {standard(128, 128, 128, 2048), standard(19, 7, 23, 45), standard(2048, 0, 16, 64),
                                   standard(16, 1024, 2048, 64)}) {
    const UpgradePlan made = plan(h, kH200, 1000);
    const std::array<int64_t, kBuffers> ends{made.buffer_at[1], made.buffer_at[2], made.buffer_at[3],
                                             made.scratch_bytes};
    Place before;
    for (const Step& step : made.steps) {
      if (step.kind == Step::Kind::finish) {
        CHECK(before.element_bytes == 4);
        continue;
      }
      const std::size_t at = static_cast<std::size_t>(step.y.buffer);
      const int64_t element = step.y.element_bytes;
      CHECK(element == (step.kind == Step::Kind::layer && step.layer.writes_bytes ? 1 : 4));
      CHECK(made.buffer_at[at] + made.chunk_rows * step.y.stride * element <= ends[at]);
      CHECK(step.y.first * element % 16 == 0 && step.y.stride * element % 16 == 0);
      if (step.kind == Step::Kind::layer) {
        CHECK(step.x.element_bytes == (step.layer.reads_bytes ? 1 : 4));
        CHECK(step.layer.depth * step.x.element_bytes % 16 == 0);
        CHECK(step.x.buffer != step.y.buffer);
        CHECK(step.x.first + step.layer.depth <= step.x.stride && step.y.first + step.layer.columns <= step.y.stride);
      }
      before = step.y;
    }
  }
  // Bytes take a quarter of float32's room.
  CHECK(plan(standard(16, 0, 16, 2048), kH200, 1000).scratch_bytes < 5 * 1000 * 1024);
}

// Padding between branches does not count: cuts lie where true columns 128, 256, ... do.
void check_cuts() {
  std::vector<float> weight(260 * 8), bias(8);
  std::vector<int8_t> bytes(8 * 8);
  TransformSource h{130, 0, 8, true, false, Precision::int8, {{false, {}}, {false, {}}}, {}};
  h.trunk = {{weight.data(), bias.data(), 260, 8, true, nullptr, nullptr, true},
             {nullptr, bias.data(), 8, 8, false, bytes.data(), bias.data(), false}};
  const TransformLayout layout = layout_of(h, Dtype::f32);
  CHECK(layout.trunk[0].depth == 264 && layout.trunk[0].columns == 16 && layout.trunk[1].depth == 16);
  CHECK(layout.trunk[1].columns == 8);
  std::vector<unsigned char> block(static_cast<std::size_t>(layout.bytes));
  pack_transform(h, layout, block.data());
  int32_t cuts[3];
  std::memcpy(cuts, block.data() + layout.trunk[0].cuts_at, sizeof(cuts));
  CHECK(cuts[0] == 128 && cuts[1] == 132 + 126 && cuts[2] == kNoCut);
}

void check_refusals() {
  const TransformSource h = standard(16, 0, 16, 64);
  TransformSource broken = h;
  broken.trunk[2] = layer(64, 16, true, true);  // ends in bytes
  CHECK_THROWS(layout_of(broken, Dtype::f32), ShapeError);
  broken = h;
  broken.trunk[1] = layer(64, 64, false, true);  // reads float32 where bytes come
  CHECK_THROWS(layout_of(broken, Dtype::f32), ShapeError);
  broken = h;
  broken.branches[0].layers[1].narrow = false;
  CHECK_THROWS(layout_of(broken, Dtype::f32), ShapeError);
  broken = h;
  broken.trunk[0].scale = nullptr;
  CHECK_THROWS(layout_of(broken, Dtype::f32), ShapeError);
  broken = h;
  broken.branches[0].layers[1].out_dim = broken.trunk[0].in_dim = 66312;  // past int32
  CHECK_THROWS(layout_of(broken, Dtype::f32), ShapeError);
  broken.branches[0].layers[1].out_dim = broken.trunk[0].in_dim = 66311;
  layout_of(broken, Dtype::f32);
}

}  // namespace
}  // namespace fct::cuda

int main() {
  fct::cuda::check_steps();
  fct::cuda::check_buffers();
  fct::cuda::check_cuts();
  fct::cuda::check_refusals();
  return 0;
}
