// The walk over register tiles of AVX-512, written over Sums, zero_sums, multiply_add and finish; one body for pairs of
// bfloat16 and quads of bytes.
//
// A line is one depth step of a panel: 16 columns of 4 bytes. A register tile is 6 rows by 4 panels, as in float32. All
// of the depth is summed in registers, since y may be narrow and cannot hold partial sums; a tile of panels (256 KiB of
// bfloat16 at depth 2048) is read from L2 for each row tile.
// Reduction order of one y[r][c]: lines ascending, whatever the tile, block or thread.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

constexpr int kTileRows = 6;
constexpr int kTilePanels = 4;
constexpr int64_t kLineBytes = 4 * kPanelWidth;  // a cache line

// What the walk needs of the arguments of either type, in bytes.
struct Operands {
  const unsigned char* x;
  int64_t x_stride;
  int64_t rows;
  const unsigned char* panels;
  int64_t panel_count;
  int64_t lines;
};

template <int Rows, int Panels, typename Args>
void run_tile(const Args& args, const Operands& in, int64_t row, int64_t panel) {
  const int64_t panel_stride = in.lines * kLineBytes;
  const unsigned char* const w = in.panels + panel * panel_stride;
  const unsigned char* const x = in.x + row * in.x_stride;
  Sums sum[Rows][Panels];
#pragma GCC unroll 32
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 32
    for (int c = 0; c < Panels; ++c) sum[r][c] = zero_sums();
  }
  for (int64_t k = 0; k < in.lines; ++k) {
    const unsigned char* const line = w + k * kLineBytes;
    __m512i column[Panels];
#pragma GCC unroll 32
    for (int c = 0; c < Panels; ++c) column[c] = _mm512_loadu_si512(line + c * panel_stride);
#pragma GCC unroll 32
    for (int r = 0; r < Rows; ++r) {
      int32_t step;
      __builtin_memcpy(&step, x + r * in.x_stride + 4 * k, sizeof(step));
      const __m512i value = _mm512_set1_epi32(step);
#pragma GCC unroll 32
      for (int c = 0; c < Panels; ++c) multiply_add(sum[r][c], value, column[c]);
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 32
    for (int c = 0; c < Panels; ++c) finish(args, row + r, panel + c, sum[r][c]);
  }
}

template <int Rows, int Panels, typename Args>
void pick_tile(const Args& args, const Operands& in, int64_t row, int64_t panel) {
  if constexpr (Rows > 1) {
    if (in.rows - row < Rows) return pick_tile<Rows - 1, Panels>(args, in, row, panel);
  }
  if constexpr (Panels > 1) {
    if (in.panel_count - panel < Panels) return pick_tile<Rows, Panels - 1>(args, in, row, panel);
  }
  run_tile<Rows, Panels>(args, in, row, panel);
}

// Asks for a share of the next panels; see prefetch_share in tile_body.hpp, also for why it is always inline.
[[gnu::always_inline]] inline void prefetch_share(const unsigned char* panels, int64_t lines, int64_t share,
                                                  int64_t shares) {
  const int64_t end = lines * (share + 1) / shares;
  for (int64_t i = lines * share / shares; i < end; ++i) __builtin_prefetch(panels + i * kLineBytes, 0, 2);
}

template <typename Args>
void run_all(const Args& args, const Operands& in) {
  const int64_t row_tiles = (in.rows + kTileRows - 1) / kTileRows;
  for (int64_t p = 0; p < in.panel_count; p += kTilePanels) {
    const int64_t after = in.panel_count - p - kTilePanels;
    const int64_t lines = after <= 0 ? 0 : (after < kTilePanels ? after : kTilePanels) * in.lines;
    const unsigned char* const next = in.panels + (p + kTilePanels) * in.lines * kLineBytes;
    for (int64_t r = 0; r < in.rows; r += kTileRows) {
      // With one row tile a panel is used once: the hardware streams it well enough alone.
      if (row_tiles > 1) prefetch_share(next, lines, r / kTileRows, row_tiles);
      pick_tile<kTileRows, kTilePanels>(args, in, r, p);
    }
  }
}

}  // namespace
}  // namespace fct
