// The plan of an upgrade: from shapes and device facts to steps, tiles, buffers and chunk. Host only, a pure function,
// and it prints itself.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cuda/device.hpp"
#include "cuda/upgrade/fused_plan.hpp"
#include "cuda/upgrade/layout.hpp"
#include "cuda/upgrade/tile.hpp"

namespace fct::cuda {

// Scratch of a chunk. `input` and `pong` serve the branches, `ping` the concatenation; `ping` and `pong` the trunk;
// `last` holds float32.
enum class Buffer : int32_t { input = 0, ping = 1, pong = 2, last = 3 };
constexpr int kBuffers = 4;

// Rows inside a buffer: columns [first, first + width) of rows `stride` elements apart.
struct Place {
  Buffer buffer = Buffer::input;
  int32_t first = 0;
  int32_t stride = 0;
  int32_t element_bytes = 0;
};

struct Step {
  enum class Kind : int32_t { load, layer, finish, fused };
  Kind kind = Kind::load;
  bool reads_side = false;  // load
  LayerLayout layer;        // layer
  TileName tile = TileName::square;
  int32_t splits = 1;  // blocks that share a tile's depth
  Place x;
  Place y;
};

struct UpgradePlan {
  TransformLayout layout;
  int64_t rows = 0;
  int64_t chunk_rows = 0;
  std::array<int64_t, kBuffers> buffer_at{};  // bytes from the start of scratch
  int64_t parts_at = 0;                       // of splits, and their arrivals
  int64_t arrivals_at = 0;
  int64_t arrivals_bytes = 0;  // 0 where no layer is split
  int64_t scratch_bytes = 0;
  std::vector<Step> steps;  // of each chunk, in order
  DeviceFacts device;
  std::optional<FusedPlan> fused;  // where the only step is Kind::fused

  std::string text() const;
  // Plans of one family give a row the same bits.
  std::string family() const;
};

// `scratch_limit` in bytes. `like_rows`: kernels are chosen as for so many rows; 0: as for a chunk's. Throws
// DeviceError where the device cannot run the kernels, or where not even a small chunk fits.
UpgradePlan plan_upgrade(const TransformLayout& layout, const DeviceFacts& device, int64_t rows, int64_t scratch_limit,
                         int64_t like_rows = 0, bool may_fuse = true);

// The tiles of a precision, widest first, and the facts of one of them. In int8, layers on bytes have those of 16 bit.
std::vector<TileFacts> tiles_of(Dtype precision);
TileFacts tile_of(Dtype precision, TileName name);

int64_t blocks_of(const TileFacts& tile, int64_t rows, int64_t columns);

}  // namespace fct::cuda
