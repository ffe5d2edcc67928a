// Plans of the upgrade, with no device: tiles, chunks, scratch, the order of buffers, and what is refused.
#include "cuda/upgrade/plan.hpp"

#include <string>

#include "check.hpp"
#include "core/error.hpp"
#include "cuda/upgrade/wgmma_tile.hpp"

namespace fct::cuda {
namespace {

constexpr DeviceFacts kH200{.compute = 90, .multiprocessors = 132, .shared_bytes = 227 * 1024, .memory_bytes = 0};
constexpr DeviceFacts kB200{.compute = 100, .multiprocessors = 148, .shared_bytes = 227 * 1024, .memory_bytes = 0};
constexpr DeviceFacts kA10{.compute = 86, .multiprocessors = 72, .shared_bytes = 99 * 1024, .memory_bytes = 0};
constexpr int64_t kGigabyte = int64_t{1} << 30;

// Shapes alone: weights are not read by a plan.
TransformSource standard(int64_t old_dim, int64_t side_dim, int64_t new_dim, int64_t inner, bool uncertainty) {
  const auto layer = [](int64_t in, int64_t out, bool relu) { return LayerSource{nullptr, nullptr, in, out, relu}; };
  TransformSource source{old_dim, side_dim, new_dim, true, uncertainty, Precision::fp32, {}, {}};
  source.branches.push_back({false, {layer(old_dim, 2 * old_dim, true), layer(2 * old_dim, 2 * new_dim, true)}});
  if (side_dim > 0)
    source.branches.push_back({true, {layer(side_dim, 2 * side_dim, true), layer(2 * side_dim, 2 * new_dim, true)}});
  source.trunk = {layer(new_dim * (side_dim > 0 ? 4 : 2), inner, true), layer(inner, inner, true),
                  layer(inner, new_dim + uncertainty, false)};
  return source;
}

UpgradePlan plan(const TransformSource& source, const DeviceFacts& device, int64_t rows, int64_t limit = 4 * kGigabyte,
                 Dtype precision = Dtype::f16, int64_t like_rows = 0, bool may_fuse = true) {
  return plan_upgrade(layout_of(source, precision), device, rows, limit, like_rows, may_fuse);
}

const Step& step_of_layer(const UpgradePlan& plan, int64_t depth, int64_t columns) {
  for (const Step& step : plan.steps) {
    if (step.kind == Step::Kind::layer && step.layer.depth == depth && step.layer.columns == columns) return step;
  }
  CHECK(false);
  return plan.steps.front();
}

TileName tile_of_layer(const UpgradePlan& plan, int64_t depth, int64_t columns) {
  return step_of_layer(plan, depth, columns).tile;
}

void check_tiles() {
  const TransformSource h = standard(128, 128, 128, 2048, false);
  CHECK(tile_of_layer(plan(h, kB200, 262144), 2048, 2048) == TileName::wide);
  CHECK(tile_of_layer(plan(h, kB200, 262144), 2048, 128) == TileName::square);
  CHECK(tile_of_layer(plan(h, kA10, 262144), 2048, 2048) == TileName::square);  // no room for the wide one
  CHECK(tile_of_layer(plan(h, kH200, 1), 2048, 2048) == TileName::small);
  CHECK(tile_of_layer(plan(h, kH200, 128), 2048, 2048) == TileName::narrow);
  for (const Step& step : plan(h, kH200, 1).steps) {
    if (step.kind == Step::Kind::layer) CHECK(step.tile == TileName::small);
  }
}

// wgmma: many rows on Hopper, in 16 bit, and nowhere else. Few rows may be computed as many are.
void check_wgmma() {
  const TransformSource h = standard(128, 128, 128, 2048, false);
  for (Dtype precision : {Dtype::f16, Dtype::bf16}) {
    const UpgradePlan many = plan(h, kH200, 262144, 4 * kGigabyte, precision);
    CHECK(tile_of_layer(many, 2048, 2048) == TileName::wgmma_wide);
    CHECK(tile_of_layer(many, 512, 2048) == TileName::wgmma_wide);
    CHECK(tile_of_layer(many, 128, 256) == TileName::wgmma_wide);
    CHECK(tile_of_layer(many, 2048, 128) == TileName::wgmma_narrow);
    CHECK(many.family() == "layers wgmma");
    CHECK(many.text().find("tile wgmma wide 128x256, 4 stages, 229440 bytes shared, 132 persistent blocks of 384") !=
          std::string::npos);
    CHECK(plan(h, kH200, 16384, 4 * kGigabyte, precision).family() == "layers wgmma");
    CHECK(plan(h, kH200, 16383, 4 * kGigabyte, precision).family() == "layers");
    CHECK(plan(h, kH200, 1, 4 * kGigabyte, precision, 16384).family() == "layers wgmma");
    CHECK(plan(h, kB200, 262144, 4 * kGigabyte, precision).family() == "layers");
    DeviceFacts small = kH200;
    small.shared_bytes = 200 * 1024;
    CHECK(plan(h, small, 262144, 4 * kGigabyte, precision).family() == "layers");
  }
  CHECK(plan(h, kH200, 262144, 4 * kGigabyte, Dtype::f32).family() == "layers");
  for (const TileFacts& tile : kWgmmaTiles) {
    CHECK(tile.shared_bytes <= kH200.shared_bytes && tile_of(Dtype::f16, tile.name).columns == tile.columns);
    CHECK_THROWS(tile_of(Dtype::f32, tile.name), ShapeError);
  }
}

// Every tile fits its threads' share of registers and the devices that it is meant for.
void check_tile_facts() {
  for (Dtype precision : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    for (const TileFacts& tile : tiles_of(precision)) {
      CHECK(tile.threads % 32 == 0 && tile.threads <= 256);
      CHECK(tile.shared_bytes <= (tile.name == TileName::wide ? kH200 : kA10).shared_bytes);
      CHECK(tile_of(precision, tile.name).rows == tile.rows);
    }
  }
}

void check_chunks() {
  const TransformSource h = standard(128, 128, 128, 2048, false);
  for (int64_t rows : {int64_t{0}, int64_t{1}, int64_t{131072}, int64_t{131073}, int64_t{1000000}, int64_t{1} << 33}) {
    const UpgradePlan made = plan(h, kH200, rows);
    CHECK(made.chunk_rows >= 1 && made.chunk_rows <= 131072 && made.scratch_bytes <= 4 * kGigabyte);
    CHECK(rows <= 131072 || made.chunk_rows % 128 == 0);
    CHECK(rows == 0 || rows > 131072 || made.chunk_rows == rows);
  }
  CHECK(plan(h, kH200, 131073).chunk_rows == 65664);  // two halves, not one chunk and one row
  // A limit is kept, whatever it allows.
  for (int64_t limit : {int64_t{20000}, int64_t{1} << 20, int64_t{100} << 20}) {
    const UpgradePlan made = plan(h, kH200, 1000000, limit);
    CHECK(made.scratch_bytes <= limit && made.chunk_rows >= 1);
  }
  CHECK_THROWS(plan(h, kH200, 10, 5000), DeviceError);
}

// Buffers lie apart, hold what their steps write, and no step writes where it reads.
void check_buffers() {
  for (const TransformSource& h : {standard(128, 128, 128, 2048, false), standard(19, 7, 23, 45, true),
                                   standard(2048, 0, 16, 64, false), standard(16, 1024, 2048, 64, true)}) {
    for (Dtype precision : {Dtype::f32, Dtype::f16}) {
      const UpgradePlan made = plan(h, kH200, 1000, kGigabyte, precision, 0, false);
      std::array<int64_t, kBuffers> ends{made.buffer_at[1], made.buffer_at[2], made.buffer_at[3], made.parts_at};
      CHECK(made.parts_at <= made.arrivals_at && made.arrivals_at + made.arrivals_bytes <= made.scratch_bytes);
      for (const Step& step : made.steps) {
        if (step.kind == Step::Kind::finish) continue;
        const int64_t element = step.y.buffer == Buffer::last ? 4 : size_of(precision);
        const std::size_t at = static_cast<std::size_t>(step.y.buffer);
        CHECK(made.buffer_at[at] % 256 == 0);
        CHECK(made.buffer_at[at] + made.chunk_rows * step.y.stride * element <= ends[at]);
        CHECK(step.y.first * element % 16 == 0 && step.y.stride * element % 16 == 0);
        if (step.kind == Step::Kind::layer) {
          CHECK(step.x.buffer != step.y.buffer);
          CHECK(step.x.first + step.layer.depth <= step.x.stride && step.y.first + step.layer.columns <= step.y.stride);
        }
      }
    }
  }
}

// Few rows: the wide layers have a block for nearly every multiprocessor, by more blocks along the depth where there
// are too few tiles. Many rows: no layer is split.
void check_splits() {
  const TransformSource h = standard(128, 128, 128, 2048, false);
  for (Dtype precision : {Dtype::f16, Dtype::bf16, Dtype::f32}) {
    for (int64_t rows : {1, 16, 17, 32, 64}) {
      const UpgradePlan made = plan(h, kH200, rows, kGigabyte, precision);
      for (int64_t columns : {2048, 128}) {
        const Step& step = step_of_layer(made, 2048, columns);
        const int64_t blocks = blocks_of(tile_of(precision, step.tile), rows, columns) * step.splits;
        CHECK(blocks >= 120);
        CHECK(columns != 128 || step.splits > 1);
      }
      CHECK(made.arrivals_bytes > 0 && made.text().find("depth split among ") != std::string::npos);
    }
    for (const Step& step : plan(h, kH200, 65536, 4 * kGigabyte, precision).steps) CHECK(step.splits == 1);
    const UpgradePlan pinned = plan(h, kH200, 1, kGigabyte, precision, 1 << 17);
    for (const Step& step : pinned.steps) {
      CHECK(step.splits == 1);
      CHECK(step.tile != TileName::small);
    }
    // Chosen as for few rows, but with scratch for all that there are.
    const UpgradePlan like = plan(h, kH200, 1000, kGigabyte, precision, 1);
    int64_t parts = 0, arrivals = 0;
    for (const Step& step : like.steps) {
      if (step.kind != Step::Kind::layer || step.splits == 1) continue;
      const TileFacts tile = tile_of(precision, step.tile);
      const int64_t tiles = blocks_of(tile, 1000, step.layer.columns);
      const int64_t sums = (step.layer.depth * size_of(precision) / 128 + 1) / 2;
      parts = std::max(parts, tiles * (precision == Dtype::f32 ? sums : step.splits) * tile.rows * tile.columns * 4);
      arrivals = std::max(arrivals, tiles * 4);
    }
    CHECK(parts > 0 && like.arrivals_at - like.parts_at >= parts && like.arrivals_bytes == arrivals);
    // Splits are left out where their scratch would pass the limit.
    const UpgradePlan tight = plan(h, kH200, 64, pinned.scratch_bytes * 64 + 4096, precision);
    CHECK(tight.arrivals_bytes == 0 && tight.scratch_bytes <= pinned.scratch_bytes * 64 + 4096);
  }
}

bool is_fused(const TransformSource& source, const DeviceFacts& device = kH200, Dtype precision = Dtype::f16) {
  const UpgradePlan made = plan(source, device, 1000, kGigabyte, precision);
  const bool fused = made.steps.size() == 1 && made.steps[0].kind == Step::Kind::fused;
  CHECK(fused == made.fused.has_value());
  if (fused) {
    CHECK(made.family() == "fused");
    CHECK(made.fused->shared_bytes <= device.shared_bytes && made.scratch_bytes == 0 && made.chunk_rows == 1000);
  }
  return fused;
}

// A small h is fused where its weights and four warps' rows fit shared memory; all others go layer by layer.
void check_fused() {
  CHECK(is_fused(standard(32, 32, 32, 128, false)) && is_fused(standard(32, 32, 32, 128, true), kH200, Dtype::bf16));
  CHECK(!is_fused(standard(32, 32, 32, 128, false), kA10) && is_fused(standard(16, 16, 16, 64, false), kA10));
  CHECK(!is_fused(standard(32, 32, 32, 128, false), kH200, Dtype::f32));
  CHECK(is_fused(standard(16, 0, 16, 240, false)) && !is_fused(standard(16, 0, 16, 288, false)));
  CHECK(!is_fused(standard(128, 128, 128, 2048, false)) && !is_fused(standard(300, 0, 16, 16, false)));
  TransformSource long_one = standard(16, 0, 16, 16, false);
  long_one.trunk.insert(long_one.trunk.begin(), 30, {nullptr, nullptr, 32, 32, true});
  CHECK(!is_fused(long_one));
  const TransformSource h = standard(32, 32, 32, 128, false);
  CHECK(plan(h, kH200, 1000, kGigabyte, Dtype::f16, 0, false).steps.size() > 1);

  const FusedPlan fused = *plan(h, kH200, 1000).fused;
  CHECK(fused.warps == 8 && fused.blocks_per_multiprocessor == 1 && !fused.deep);
  DeviceFacts less = kH200;
  less.shared_bytes = 164 * 1024;
  CHECK(plan(h, less, 1000).fused->warps == 4);
  CHECK(fused.blocks(0, kH200) == 0 && fused.blocks(33, kH200) == 2 && fused.blocks(1 << 20, kH200) == 132);
  CHECK(plan(standard(16, 16, 16, 64, false), kH200, 1000).fused->blocks_per_multiprocessor == 2);
  CHECK(plan(standard(16, 0, 16, 200, false), kH200, 1000).fused->deep);
  // One launch for many rows, but chunks that a limit holds.
  CHECK(plan(h, kH200, 1000000, 4 * kGigabyte).chunk_rows == 1000000);
  CHECK(plan(h, kH200, 1000000, kGigabyte / 4).chunk_rows < 1000000);
}

// What the fused kernel keeps in shared memory lies apart, and eight neighbouring rows lie in eight different banks.
void check_fused_places() {
  for (const TransformSource& h : {standard(32, 32, 32, 128, true), standard(19, 7, 23, 45, true),
                                   standard(16, 0, 16, 200, false), standard(5, 3, 1, 4, false)}) {
    const FusedPlan fused = *plan(h, kH200, 1000).fused;
    int64_t end = 0;
    for (int s = 0; s < fused.step_count; ++s) {
      const FusedStep& step = fused.steps[static_cast<std::size_t>(s)];
      CHECK(step.x_at % 16 == 0 && step.y_at % 16 == 0);
      if (step.kind != FusedStep::Kind::layer) continue;
      const int64_t columns = (step.columns + 15) / 16 * 16, depth = (step.depth + 15) / 16, stride = depth * 32 + 16;
      CHECK(depth <= (fused.deep ? kDeepDepth : kShallowDepth));
      CHECK(step.weight_shared == end);
      CHECK(step.bias_shared == end + columns * stride);
      end = step.bias_shared + columns * 4;
      CHECK(step.x_at + depth * 32 <= fused.row_bytes && step.y_at + columns * (step.last ? 4 : 2) <= fused.row_bytes);
    }
    CHECK(fused.rows_at == end && fused.rows_at % 16 == 0 && fused.row_bytes / 16 % 2 == 1);
    CHECK(fused.status_at == end + fused.warps * kFusedRows * fused.row_bytes);
    CHECK(fused.shared_bytes == fused.status_at + fused.warps * kFusedRows);
  }
}

void check_refusals() {
  const TransformSource h = standard(16, 0, 16, 64, false);
  DeviceFacts old = kH200;
  old.compute = 75;
  CHECK_THROWS(plan(h, old, 10), DeviceError);
  DeviceFacts cramped = kH200;
  cramped.shared_bytes = 16 * 1024;
  CHECK_THROWS(plan(h, cramped, 10), DeviceError);
  TransformSource broken = h;
  broken.trunk[1].in_dim = 63;
  CHECK_THROWS(layout_of(broken, Dtype::f16), ShapeError);
  broken = h;
  broken.new_dim = 17;
  CHECK_THROWS(layout_of(broken, Dtype::f16), ShapeError);
  broken = h;
  broken.trunk.clear();
  CHECK_THROWS(layout_of(broken, Dtype::f16), ShapeError);
}

// Weights that float16 cannot hold are refused, not rounded to infinity.
void check_weights() {
  std::vector<float> weight(32, 1.0f), bias(4, 0.0f);
  TransformSource h{8, 0, 4, true, false, Precision::fp32, {{false, {}}}, {{weight.data(), bias.data(), 8, 4, false}}};
  for (Dtype precision : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    const TransformLayout layout = layout_of(h, precision);
    std::vector<unsigned char> block(static_cast<std::size_t>(layout.bytes));
    weight[5] = 1.0f;
    pack_transform(h, layout, block.data());
    weight[5] = 1e5f;
    if (precision == Dtype::f16) {
      CHECK_THROWS(pack_transform(h, layout, block.data()), ShapeError);
    } else {
      pack_transform(h, layout, block.data());
    }
  }
}

void check_text() {
  const std::string text = plan(standard(128, 64, 128, 2048, true), kH200, 300000).text();
  const std::string fused = plan(standard(32, 16, 32, 128, false), kH200, 10).text();
  for (const char* part : {"fused: 32 rows a warp, 8 warps", "load side -> byte 0", "layer 128 -> 32, byte 0 -> 0"}) {
    CHECK(fused.find(part) != std::string::npos);
  }
  for (const char* part : {"fp16, 300000 rows in chunks of 100096", "load side -> input", "layer 2048 -> 2048 relu",
                           "tile wgmma wide 128x256, 4 stages", "pong -> ping+256", "finish unit norm, uncertainty"}) {
    if (text.find(part) == std::string::npos) {
      std::fprintf(stderr, "no '%s' in\n%s", part, text.c_str());
      std::exit(1);
    }
  }
}

}  // namespace
}  // namespace fct::cuda

int main() {
  fct::cuda::check_tiles();
  fct::cuda::check_wgmma();
  fct::cuda::check_tile_facts();
  fct::cuda::check_chunks();
  fct::cuda::check_buffers();
  fct::cuda::check_splits();
  fct::cuda::check_fused();
  fct::cuda::check_fused_places();
  fct::cuda::check_refusals();
  fct::cuda::check_weights();
  fct::cuda::check_text();
  return 0;
}
