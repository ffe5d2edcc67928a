// The int8 tile, written over Quads and Vec; what it computes is defined in cpu/kernel_table.hpp.
//
// A register tile is kTileRows rows by one panel. Its rows' bytes are widened to int16 pairs once for a group of panels
// and a run of depth, in a strip on the stack that stays in L1; weights are widened on their way into registers. Sums
// are whole numbers, so the order is free: the even bytes of a quad go first and then the odd ones, so that few weights
// are held at once.
#pragma once

#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

constexpr int kQuadVecs = kPanelWidth / Quads::kLanes;
constexpr int64_t kQuadWidth = 4 * kPanelWidth;  // bytes of a depth quad in a panel: one cache line
constexpr int kGroupPanels = 8;
constexpr int64_t kRunQuads = 256;
constexpr int64_t kStreamAhead = 64 * kQuadWidth;  // a page: there the hardware's prefetcher gives up

// A run of a row tile: the even and odd bytes of each quad as pairs of int16.
struct Strip {
  int32_t even[Quads::kTileRows][kRunQuads];
  int32_t odd[Quads::kTileRows][kRunQuads];
};

void widen(const uint8_t* x, int64_t x_stride, int rows, int64_t quads, Strip& strip) {
  for (int r = 0; r < rows; ++r) {
    const uint8_t* const row = x + r * x_stride;
    int64_t k = 0;
    for (; k + Quads::kLanes <= quads; k += Quads::kLanes) {
      const Quads bytes = Quads::load(row + 4 * k);
      bytes.unsigned_even().store(strip.even[r] + k);
      bytes.unsigned_odd().store(strip.odd[r] + k);
    }
    for (; k < quads; ++k) {
      uint32_t bytes;
      __builtin_memcpy(&bytes, row + 4 * k, sizeof(bytes));
      strip.even[r][k] = static_cast<int32_t>(bytes & 0x00ff00ffu);
      strip.odd[r][k] = static_cast<int32_t>(bytes >> 8 & 0x00ff00ffu);
    }
  }
}

// sums[r][c] += the run's products. With Stream the panel is read this once, and what follows it is asked for, which
// may be past the last panel: a prefetch never faults. Never inline: the strip must not be addressed through the stack
// pointer, which is what tests/kernels/test_isa_objects.py takes for a spilled sum.
template <int Rows, bool Stream>
[[gnu::noinline]] void run_tile(const Strip& strip, const int8_t* panel, int64_t quads, int32_t* sums) {
  Quads sum[Rows][kQuadVecs];
#pragma GCC unroll 32
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 32
    for (int c = 0; c < kQuadVecs; ++c) sum[r][c] = Quads::load(sums + r * kPanelWidth + c * Quads::kLanes);
  }
  for (int64_t k = 0; k < quads; ++k) {
    const int8_t* const line = panel + k * kQuadWidth;
    if constexpr (Stream) __builtin_prefetch(line + kStreamAhead, 0, 3);
    Quads even[kQuadVecs];
#pragma GCC unroll 32
    for (int c = 0; c < kQuadVecs; ++c) even[c] = Quads::load(line + 4 * c * Quads::kLanes).signed_even();
#pragma GCC unroll 32
    for (int r = 0; r < Rows; ++r) {
      const Quads value = Quads::splat(strip.even[r][k]);
#pragma GCC unroll 32
      for (int c = 0; c < kQuadVecs; ++c) sum[r][c] = Quads::pairs_add(value, even[c], sum[r][c]);
    }
    Quads odd[kQuadVecs];
#pragma GCC unroll 32
    for (int c = 0; c < kQuadVecs; ++c) odd[c] = Quads::load(line + 4 * c * Quads::kLanes).signed_odd();
#pragma GCC unroll 32
    for (int r = 0; r < Rows; ++r) {
      const Quads value = Quads::splat(strip.odd[r][k]);
#pragma GCC unroll 32
      for (int c = 0; c < kQuadVecs; ++c) sum[r][c] = Quads::pairs_add(value, odd[c], sum[r][c]);
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 32
    for (int c = 0; c < kQuadVecs; ++c) sum[r][c].store(sums + r * kPanelWidth + c * Quads::kLanes);
  }
}

template <int Rows, bool Stream>
void pick_tile(const Strip& strip, const int8_t* panel, int64_t quads, int32_t* sums, int rows) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return pick_tile<Rows - 1, Stream>(strip, panel, quads, sums, rows);
  }
  run_tile<Rows, Stream>(strip, panel, quads, sums);
}

void write_rows(const Int8TileArgs& args, const int32_t* sums, int64_t row, int rows, int64_t panel) {
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < kQuadVecs; ++c) {
      const int64_t column = panel * kPanelWidth + c * Quads::kLanes;
      const Vec sum = Quads::load(sums + r * kPanelWidth + c * Quads::kLanes).to_float();
      const Vec y = sum * Vec::load(args.scale + column) + Vec::load(args.bias + column);
      const int64_t at = (row + r) * args.y_stride + column;
      if (args.narrow) {
        Quads::narrow(y, static_cast<uint8_t*>(args.y) + at);
      } else {
        (args.relu ? Vec::relu(y) : y).store(static_cast<float*>(args.y) + at);
      }
    }
  }
}

// Asks for a share of the next panels; see prefetch_share in tile_body.hpp, also for why it is always inline.
[[gnu::always_inline]] inline void prefetch_share(const int8_t* panels, int64_t lines, int64_t share, int64_t shares) {
  const int64_t end = lines * (share + 1) / shares;
  for (int64_t i = lines * share / shares; i < end; ++i) __builtin_prefetch(panels + i * kQuadWidth, 0, 2);
}

// Stream: all rows are one row tile. Panels that take several runs are then a group each, so that weights are read in
// the order in which they lie.
template <bool Stream>
void tile_all(const Int8TileArgs* args) {
  const int64_t most = Stream && args->quads > kRunQuads ? 1 : kGroupPanels;
  Strip strip;
  const int64_t panel_stride = args->quads * kQuadWidth;
  const int64_t row_tiles = (args->rows + Quads::kTileRows - 1) / Quads::kTileRows;
  for (int64_t p = 0; p < args->panel_count; p += most) {
    const int64_t left = args->panel_count - p;
    const int64_t group = left < most ? left : most;
    const int64_t after = left - group < most ? left - group : most;
    const int8_t* const panels = args->panels + p * panel_stride;
    for (int64_t t = 0; t < row_tiles; ++t) {
      const int64_t row = t * Quads::kTileRows;
      const int rows = args->rows - row < Quads::kTileRows ? static_cast<int>(args->rows - row) : Quads::kTileRows;
      if constexpr (!Stream) prefetch_share(panels + group * panel_stride, after * args->quads, t, row_tiles);
      int32_t sums[kGroupPanels][Quads::kTileRows * kPanelWidth] = {};
      for (int64_t k = 0; k < args->quads; k += kRunQuads) {
        const int64_t quads = args->quads - k < kRunQuads ? args->quads - k : kRunQuads;
        widen(args->x + row * args->x_stride + 4 * k, args->x_stride, rows, quads, strip);
        for (int64_t i = 0; i < group; ++i) {
          const int8_t* const panel = panels + i * panel_stride + k * kQuadWidth;
          pick_tile<Quads::kTileRows, Stream>(strip, panel, quads, sums[i], rows);
        }
      }
      for (int64_t i = 0; i < group; ++i) write_rows(*args, sums[i], row, rows, p + i);
    }
  }
}

void tile(const Int8TileArgs* args) {
  if (args->rows <= Quads::kTileRows) {
    tile_all<true>(args);
  } else {
    tile_all<false>(args);
  }
}

void narrow(const Int8NarrowArgs* args) {
  for (int64_t r = 0; r < args->rows; ++r) {
    const float* const x = args->x + r * args->x_stride;
    uint8_t* const y = args->y + r * args->y_stride;
    for (int64_t c = 0; c < args->panel_count * kPanelWidth; c += Quads::kLanes) Quads::narrow(Vec::load(x + c), y + c);
  }
}

}  // namespace
}  // namespace fct
