#include "cuda/upgrade/plan.hpp"

#include <algorithm>
#include <sstream>

#include "core/error.hpp"
#include "cuda/upgrade/tile_choice.hpp"
#include "cuda/upgrade/wgmma_tile.hpp"

namespace fct::cuda {
namespace {

// Large enough that launches are under a hundredth of the time (a prediction), small enough for any card's memory.
constexpr int64_t kMostChunkRows = 131072;
constexpr int64_t kRowMultiple = 128;
constexpr int64_t kBufferAlignment = 256;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t up_to(int64_t value, int64_t multiple) { return ceil_div(value, multiple) * multiple; }

// The widest row that each buffer must hold, in bytes.
class Widths {
 public:
  explicit Widths(const TransformLayout& layout) : layout_(layout) {}
  Place place(Buffer buffer, int32_t columns, bool as_bytes = false) {
    const int64_t element = buffer == Buffer::last ? 4 : layout_.element_bytes(as_bytes);
    const int64_t bytes = columns * element;
    int64_t& widest = widest_[static_cast<std::size_t>(buffer)];
    widest = std::max(widest, bytes);
    return {.buffer = buffer, .first = 0, .stride = columns, .element_bytes = static_cast<int32_t>(element)};
  }
  int64_t of(int buffer) const { return widest_[static_cast<std::size_t>(buffer)]; }
  int64_t row_bytes() const { return widest_[0] + widest_[1] + widest_[2] + widest_[3]; }

 private:
  const TransformLayout& layout_;
  std::array<int64_t, kBuffers> widest_{};
};

Step load_step(bool reads_side, Place y) {
  return {.kind = Step::Kind::load, .reads_side = reads_side, .layer = {}, .x = {}, .y = y};
}
Step layer_step(const LayerLayout& layer, Place x, Place y) {
  return {.kind = Step::Kind::layer, .layer = layer, .x = x, .y = y};
}

std::vector<Step> steps_of(const TransformLayout& layout, Widths& widths) {
  std::vector<Step> steps;
  int32_t concat = 0;
  for (const BranchLayout& branch : layout.branches) concat += branch.columns;
  const Place joined = widths.place(Buffer::ping, concat, layout.trunk.front().reads_bytes);
  Place target = joined;
  for (const BranchLayout& branch : layout.branches) {
    if (branch.layers.empty()) {
      steps.push_back(load_step(branch.reads_side, target));
    } else {
      Place x = widths.place(Buffer::input, branch.layers.front().depth);
      steps.push_back(load_step(branch.reads_side, x));
      for (std::size_t i = 0; i < branch.layers.size(); ++i) {
        const bool ends = i + 1 == branch.layers.size();
        // Hidden layers alternate between pong and input, whose rows are free once they were read.
        const LayerLayout& layer = branch.layers[i];
        const Buffer free = i % 2 == 0 ? Buffer::pong : Buffer::input;
        const Place y = ends ? target : widths.place(free, layer.columns, layer.writes_bytes);
        steps.push_back(layer_step(layer, x, y));
        x = y;
      }
    }
    target.first += branch.columns;
  }
  Place x = joined;
  for (std::size_t i = 0; i < layout.trunk.size(); ++i) {
    const LayerLayout& layer = layout.trunk[i];
    const bool ends = i + 1 == layout.trunk.size();
    const Buffer buffer = ends ? Buffer::last : i % 2 == 0 ? Buffer::pong : Buffer::ping;
    const Place y = widths.place(buffer, layer.columns, layer.writes_bytes);
    steps.push_back(layer_step(layer, x, y));
    x = y;
  }
  steps.push_back({.kind = Step::Kind::finish, .layer = {}, .x = x, .y = {}});
  return steps;
}

// Whose tiles a layer has.
Dtype tiles_for(const TransformLayout& layout, const LayerLayout& layer) {
  return layer.reads_bytes ? Dtype::f16 : layout.precision;
}

// Gives each layer its tile and splits, chosen as for `like_rows`; bytes of scratch that the splits of a chunk need
// behind the buffers.
int64_t choose_tiles(UpgradePlan& plan, int64_t like_rows, bool may_split) {
  int64_t parts = 0, arrivals = 0;
  for (Step& step : plan.steps) {
    if (step.kind != Step::Kind::layer) continue;
    const TileChoice choice =
        choose_tile(tiles_for(plan.layout, step.layer), like_rows, step.layer, plan.device, may_split);
    step.tile = choice.tile.name;
    step.splits = choice.splits;
    if (step.splits == 1) continue;
    const int64_t tiles = blocks_of(choice.tile, plan.chunk_rows, step.layer.columns);
    parts = std::max(parts, tiles * choice.parts * choice.tile.rows * choice.tile.columns * 4);
    arrivals = std::max(arrivals, tiles * 4);
  }
  plan.parts_at = plan.scratch_bytes;
  plan.arrivals_at = plan.parts_at + up_to(parts, kBufferAlignment);
  plan.arrivals_bytes = arrivals;
  return plan.arrivals_at + up_to(arrivals, kBufferAlignment) - plan.parts_at;
}

void check(const DeviceFacts& device) {
  if (device.compute < kMinCompute) {
    throw DeviceError("the device has compute capability " + std::to_string(device.compute / 10) + "." +
                      std::to_string(device.compute % 10) + "; the CUDA kernels need 8.0 or later");
  }
  if (device.multiprocessors < 1) throw DeviceError("the device has no multiprocessors");
}

const char* text_of(const TransformLayout& layout) {
  if (layout.int8) return "int8";
  return layout.precision == Dtype::f32 ? "fp32" : layout.precision == Dtype::f16 ? "fp16" : "bf16";
}

std::string splits_text(int32_t splits) {
  return splits == 1 ? "" : "depth split among " + std::to_string(splits) + " blocks, ";
}

std::string text_of(const Place& place) {
  static const char* const kNames[] = {"input", "ping", "pong", "last"};
  std::string text = kNames[static_cast<int>(place.buffer)];
  return place.first == 0 ? text : text + "+" + std::to_string(place.first);
}

}  // namespace

std::vector<TileFacts> tiles_of(Dtype precision) {
  if (precision == Dtype::f32) return {kFp32Tiles.begin(), kFp32Tiles.end()};
  return {kMmaTiles.begin(), kMmaTiles.end()};
}

TileFacts tile_of(Dtype precision, TileName name) {
  for (const TileFacts& tile : tiles_of(precision)) {
    if (tile.name == name) return tile;
  }
  for (const TileFacts& tile : kWgmmaTiles) {
    if (tile.name == name && precision != Dtype::f32) return tile;
  }
  throw ShapeError("this precision has no such tile");
}

int64_t blocks_of(const TileFacts& tile, int64_t rows, int64_t columns) {
  return ceil_div(rows, tile.rows) * ceil_div(columns, tile.columns);
}

UpgradePlan plan_upgrade(const TransformLayout& layout, const DeviceFacts& device, int64_t rows, int64_t scratch_limit,
                         int64_t like_rows, bool may_fuse) {
  check(device);
  Widths widths(layout);
  UpgradePlan plan{.layout = layout, .rows = rows, .steps = steps_of(layout, widths), .device = device, .fused = {}};
  const int64_t fitting = (scratch_limit - kBuffers * kBufferAlignment) / widths.row_bytes();
  if (fitting < 1) {
    throw DeviceError("a row needs " + std::to_string(widths.row_bytes()) + " bytes of scratch, and " +
                      std::to_string(scratch_limit) + " bytes are allowed in all");
  }
  if (may_fuse) plan.fused = plan_fused(layout, device);
  if (plan.fused) {
    // One launch, as long as the caller's own rows, which a limit is for too, are no more than the activations would
    // be.
    plan.chunk_rows = std::clamp<int64_t>(rows, 1, fitting);
    plan.steps = {{.kind = Step::Kind::fused, .layer = {}, .x = {}, .y = {}}};
    return plan;
  }
  // Chunks of nearly one size, in whole tiles where there are several.
  const int64_t most = std::min(fitting, kMostChunkRows);
  const int64_t chunks = std::max<int64_t>(ceil_div(rows, most), 1);
  const int64_t even = std::max<int64_t>(ceil_div(rows, chunks), 1);
  plan.chunk_rows = chunks == 1 ? even : std::min(up_to(even, kRowMultiple), most);
  for (int buffer = 0; buffer < kBuffers; ++buffer) {
    plan.buffer_at[static_cast<std::size_t>(buffer)] = plan.scratch_bytes;
    plan.scratch_bytes += up_to(plan.chunk_rows * widths.of(buffer), kBufferAlignment);
  }
  const int64_t chosen_for = like_rows > 0 ? std::min(like_rows, kMostChunkRows) : plan.chunk_rows;
  int64_t split_bytes = choose_tiles(plan, chosen_for, !layout.int8);
  if (plan.scratch_bytes + split_bytes > scratch_limit) split_bytes = choose_tiles(plan, chosen_for, false);
  plan.scratch_bytes += split_bytes;
  return plan;
}

std::string UpgradePlan::family() const {
  if (fused) return "fused";
  // The small tile splits the depth among warps, others may split it among blocks, wgmma adds in an order of its own;
  // in float32, and in int8, all give the same sums.
  std::string small, splits, wgmma;
  int index = 0;
  for (const Step& step : steps) {
    if (step.kind != Step::Kind::layer) continue;
    const std::string number = std::to_string(index++);
    if (is_wgmma(step.tile)) wgmma = " wgmma";
    if (step.tile == TileName::small) small += (small.empty() ? " small:" : ",") + number;
    if (step.splits > 1) splits += (splits.empty() ? " split:" : ",") + number + "x" + std::to_string(step.splits);
  }
  return layout.precision == Dtype::f32 ? "layers" : "layers" + wgmma + small + splits;
}

std::string UpgradePlan::text() const {
  std::ostringstream out;
  out << text_of(layout) << ", " << rows << " rows in chunks of " << chunk_rows << ", scratch " << scratch_bytes
      << " bytes, weights " << layout.bytes << " bytes\n";
  for (const Step& step : steps) {
    if (step.kind == Step::Kind::load) {
      out << "load " << (step.reads_side ? "side" : "old") << " -> " << text_of(step.y) << "\n";
    } else if (step.kind == Step::Kind::layer) {
      const TileFacts tile = tile_of(tiles_for(layout, step.layer), step.tile);
      const int64_t tiles = blocks_of(tile, chunk_rows, step.layer.columns) * step.splits;
      const int64_t blocks = is_wgmma(step.tile) ? std::min<int64_t>(tiles, device.multiprocessors) : tiles;
      out << "layer " << step.layer.depth << " -> " << step.layer.columns << (step.layer.relu ? " relu" : "")
          << (step.layer.reads_bytes ? " bytes" : "") << (step.layer.writes_bytes ? " to bytes" : "") << ", "
          << text_of(step.x) << " -> " << text_of(step.y) << ", tile " << tile.text << " " << tile.rows << "x"
          << tile.columns << ", " << splits_text(step.splits) << tile.stages << " stages, " << tile.shared_bytes
          << " bytes shared, " << blocks << (is_wgmma(step.tile) ? " persistent" : "") << " blocks of " << tile.threads
          << "\n";
    } else if (step.kind == Step::Kind::fused) {
      out << fused->text();
    } else {
      out << "finish" << (layout.normalize ? " unit norm" : "") << (layout.uncertainty ? ", uncertainty" : "") << "\n";
    }
  }
  return out.str();
}

}  // namespace fct::cuda
