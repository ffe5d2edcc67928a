// Block tiles of a layer, and how the plan ranks them.
#pragma once

#include <array>
#include <cstdint>

namespace fct::cuda {

// One step of depth is 128 bytes a row in every precision: eight chunks of 16 bytes.
constexpr int kStepBytes = 128;
constexpr int kChunkBytes = 16;
constexpr int kStepChunks = kStepBytes / kChunkBytes;

// Blocks that share a tile's depth take whole multiples of so many steps; float32 sums are cut there too.
constexpr int kSplitSteps = 2;

// A block computes Rows x Columns outputs with a grid of warps; Depths > 1 splits each step of depth among warps.
template <int Rows, int Columns, int WarpRows, int WarpColumns, int WarpDepths, int Stages>
struct Tile {
  static constexpr int kRows = Rows;
  static constexpr int kColumns = Columns;
  static constexpr int kWarpRows = WarpRows;
  static constexpr int kWarpColumns = WarpColumns;
  static constexpr int kWarpDepths = WarpDepths;
  static constexpr int kStages = Stages;
  static constexpr int kThreads = 32 * WarpRows * WarpColumns * WarpDepths;
  static constexpr int kStageBytes = (Rows + Columns) * kStepBytes;
  static constexpr bool kSplits = Rows <= 64;  // few rows: blocks may share the depth (split.hpp)
  // Staging of outputs: rows padded by whole chunks so that a warp's stores fall into different banks.
  template <typename Output>
  static constexpr int kOutputStride =
      Columns * static_cast<int>(sizeof(Output)) + (sizeof(Output) == 1 ? 16 : 8 * static_cast<int>(sizeof(Output)));
  static constexpr int kSumBytes = WarpDepths > 1 ? WarpDepths * Rows * Columns * 4 : 0;
  template <typename Output>
  static constexpr int kEpilogueBytes = Rows * kOutputStride<Output> + kSumBytes;
  template <typename Output>
  static constexpr int kSharedBytes =
      Stages * kStageBytes > kEpilogueBytes<Output> ? Stages * kStageBytes : kEpilogueBytes<Output>;
};

// Tensor-core tiles: warps of 64 x 64, 64 x 64, 32 x 32 and 16 x 16. `small` is for the few rows of an online request:
// many blocks, each of which reads little of the weights, its four warps sharing every step.
using WideTile = Tile<128, 256, 2, 4, 1, 3>;
using SquareTile = Tile<128, 128, 2, 2, 1, 3>;
using NarrowTile = Tile<64, 64, 2, 2, 1, 4>;
using SmallTile = Tile<16, 16, 1, 1, 4, 8>;

// float32 tiles, computed by FFMA: threads in a 16 x 16 grid, each 8 x 8 or 4 x 4 or 1 x 2 outputs.
using Fp32SquareTile = Tile<128, 128, 2, 4, 1, 2>;
using Fp32NarrowTile = Tile<64, 64, 2, 4, 1, 3>;
using Fp32SmallTile = Tile<16, 32, 2, 4, 1, 4>;

// int8 takes the tiles of its layers' element: tensor-core ones on bytes, whose steps are the same 128 bytes of depth,
// and float32 ones for what reads float32.
// The last two are those of wgmma_tile.hpp.
enum class TileName : int32_t { wide = 0, square = 1, narrow = 2, small = 3, wgmma_wide = 4, wgmma_narrow = 5 };

// `rate` is the share of a multiprocessor's best rate that a tile is predicted to reach; nothing was measured yet.
struct TileFacts {
  TileName name;
  const char* text;
  int rows;
  int columns;
  int stages;
  int threads;
  int64_t shared_bytes;
  double rate;
  bool splits;
};

template <typename T>
constexpr TileFacts facts_of(TileName name, const char* text, double rate) {
  return {name, text,      T::kRows, T::kColumns, T::kStages, T::kThreads, T::template kSharedBytes<float>,
          rate, T::kSplits};
}

constexpr std::array<TileFacts, 4> kMmaTiles = {
    facts_of<WideTile>(TileName::wide, "wide", 1.0), facts_of<SquareTile>(TileName::square, "square", 0.9),
    facts_of<NarrowTile>(TileName::narrow, "narrow", 0.6), facts_of<SmallTile>(TileName::small, "small", 0.15)};
constexpr std::array<TileFacts, 3> kFp32Tiles = {facts_of<Fp32SquareTile>(TileName::square, "square", 1.0),
                                                 facts_of<Fp32NarrowTile>(TileName::narrow, "narrow", 0.7),
                                                 facts_of<Fp32SmallTile>(TileName::small, "small", 0.2)};

}  // namespace fct::cuda
