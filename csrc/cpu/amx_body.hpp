// The walk over AMX tiles, written over multiply_add, load_sums, finish and kLineValues; one body for pairs of bfloat16
// and quads of bytes.
//
// A line is one depth step of a panel: 16 columns of 4 bytes. Sixteen lines of a panel, as they are packed, are one
// tile of weights; 64 bytes of 16 rows of x are one tile of activations; a tile of sums is 16 rows by one panel.
// Registers: 0 .. 3 sums of two row tiles by two panels, 4 and 5 rows, 6 and 7 weights. What depth leaves over is
// copied and padded with zeros, since neither rows nor panels may be read past their end.
// Reduction order of one y[r][c]: sixteen lines at a time, ascending, whatever the tile, block or thread.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileLines = 16;
constexpr int64_t kLineBytes = 4 * kPanelWidth;  // also the bytes of a row of x that a tile takes

// The operand of ldtilecfg.
struct TileShapes {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileShapes) == 64);

// GCC's tile intrinsics do not say that they read memory: without this, writes to it might come later or never.
[[gnu::always_inline]] inline void before_tiles_read(const void* memory) {
  asm volatile("" : : "r"(memory) : "memory");
}

// Shapes for 1 .. 32 rows of x. Up to 16, registers 2, 3 and 5 are not there.
void set_shapes(int64_t rows) {
  const int64_t low = rows < kTileRows ? rows : kTileRows;
  const int64_t of_register[8] = {low, low, rows - low, rows - low, low, rows - low, kTileLines, kTileLines};
  TileShapes shapes = {};
  shapes.palette = 1;
  for (int i = 0; i < 8; ++i) {
    shapes.rows[i] = static_cast<uint8_t>(of_register[i]);
    shapes.row_bytes[i] = of_register[i] > 0 ? kLineBytes : 0;
  }
  before_tiles_read(&shapes);
  _tile_loadconfig(&shapes);
}

// What the walk needs of the arguments of either type, in bytes.
struct Operands {
  const unsigned char* x;
  int64_t x_stride;
  const unsigned char* panels;
  int64_t panel_count;
  int64_t lines;
};

// Sums += 16 lines of one or two panels times one or two tiles of rows.
template <int RowTiles, int Panels>
[[gnu::always_inline]] inline void step(const unsigned char* x, int64_t x_stride, const unsigned char* w,
                                        int64_t w_stride) {
  _tile_loadd(4, x, x_stride);
  _tile_loadd(6, w, kLineBytes);
  multiply_add<0, 0>();
  if constexpr (Panels == 2) {
    _tile_loadd(7, w + w_stride, kLineBytes);
    multiply_add<0, 1>();
  }
  if constexpr (RowTiles == 2) {
    _tile_loadd(5, x + kTileRows * x_stride, x_stride);
    multiply_add<1, 0>();
    if constexpr (Panels == 2) multiply_add<1, 1>();
  }
}

template <int RowTiles, int Panels>
void clear_sums() {
  _tile_zero(0);
  if constexpr (Panels == 2) _tile_zero(1);
  if constexpr (RowTiles == 2) _tile_zero(2);
  if constexpr (RowTiles == 2 && Panels == 2) _tile_zero(3);
}

// sums [2 * RowTiles][16][16]: row tile t, panel c at 2 * t + c.
template <int RowTiles, int Panels>
void store_sums(unsigned char* sums) {
  constexpr int64_t kBytes = kTileRows * kLineBytes;
  _tile_stored(0, sums, kLineBytes);
  if constexpr (Panels == 2) _tile_stored(1, sums + kBytes, kLineBytes);
  if constexpr (RowTiles == 2) _tile_stored(2, sums + 2 * kBytes, kLineBytes);
  if constexpr (RowTiles == 2 && Panels == 2) _tile_stored(3, sums + 3 * kBytes, kLineBytes);
}

// The lines that depth leaves over of some panels, zeros after them.
void pad_lines(const Operands& in, int64_t panel, int64_t panels, unsigned char* target) {
  const int64_t whole = in.lines / kTileLines * kTileLines;
  __builtin_memset(target, 0, static_cast<std::size_t>(panels * kTileLines * kLineBytes));
  for (int64_t c = 0; c < panels; ++c) {
    __builtin_memcpy(target + c * kTileLines * kLineBytes, in.panels + ((panel + c) * in.lines + whole) * kLineBytes,
                     static_cast<std::size_t>((in.lines - whole) * kLineBytes));
  }
}

// The same of some rows of x.
void pad_rows(const Operands& in, int64_t row, int64_t rows, unsigned char* target) {
  const int64_t whole = in.lines / kTileLines * kTileLines;
  __builtin_memset(target, 0, static_cast<std::size_t>(rows * kLineBytes));
  for (int64_t r = 0; r < rows; ++r) {
    __builtin_memcpy(target + r * kLineBytes, in.x + (row + r) * in.x_stride + 4 * whole,
                     static_cast<std::size_t>(4 * (in.lines - whole)));
  }
}

// `rows` rows of y, 16 columns for each of the panels; the shapes are set. `rest`: pad_lines of the panels.
template <int RowTiles, int Panels, typename Args>
void run_tile(const Args& args, const Operands& in, int64_t row, int64_t rows, int64_t panel,
              const unsigned char* rest) {
  const int64_t w_stride = in.lines * kLineBytes;
  const unsigned char* const x = in.x + row * in.x_stride;
  const unsigned char* const w = in.panels + panel * w_stride;
  clear_sums<RowTiles, Panels>();
  int64_t k = 0;
  for (; k + kTileLines <= in.lines; k += kTileLines) {
    step<RowTiles, Panels>(x + 4 * k, in.x_stride, w + k * kLineBytes, w_stride);
  }
  if (k < in.lines) {
    alignas(64) unsigned char x_rest[2 * kTileRows * kLineBytes];
    pad_rows(in, row, rows, x_rest);
    before_tiles_read(x_rest);
    step<RowTiles, Panels>(x_rest, kLineBytes, rest, kTileLines * kLineBytes);
  }
  alignas(64) unsigned char sums[4][kTileRows][kLineBytes];
  store_sums<RowTiles, Panels>(&sums[0][0][0]);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < Panels; ++c) {
      finish(args, row + r, panel + c, load_sums(sums[2 * (r / kTileRows) + c][r % kTileRows]));
    }
  }
}

// Rows [begin, end) in steps of `step_rows`, for which the shapes are set.
template <int RowTiles, int Panels, typename Args>
void run_rows(const Args& args, const Operands& in, int64_t begin, int64_t end, int64_t step_rows, int64_t panel) {
  alignas(64) unsigned char rest[Panels * kTileLines * kLineBytes];
  if (in.lines % kTileLines != 0) pad_lines(in, panel, Panels, rest);
  before_tiles_read(rest);
  for (int64_t r = begin; r < end; r += step_rows) run_tile<RowTiles, Panels>(args, in, r, step_rows, panel, rest);
}

template <int RowTiles, typename Args>
void run_panels(const Args& args, const Operands& in, int64_t begin, int64_t end, int64_t step_rows) {
  set_shapes(step_rows);
  int64_t p = 0;
  for (; p + 2 <= in.panel_count; p += 2) run_rows<RowTiles, 2>(args, in, begin, end, step_rows, p);
  if (p < in.panel_count) run_rows<RowTiles, 1>(args, in, begin, end, step_rows, p);
}

// First the rows that fill two tiles, then what is left of them in shapes of its own: reading rows that are not there
// could end in memory that is not there. The shapes are a thread's, so each call sets and releases them.
template <typename Args>
void run_all(const Args& args, const Operands& in) {
  const int64_t whole = args.rows / (2 * kTileRows) * (2 * kTileRows);
  const int64_t left = args.rows - whole;
  if (whole > 0) run_panels<2>(args, in, 0, whole, 2 * kTileRows);
  if (left > kTileRows) {
    run_panels<2>(args, in, whole, args.rows, left);
  } else if (left > 0) {
    run_panels<1>(args, in, whole, args.rows, left);
  }
  _tile_release();
}

// See cpu/peak_body.hpp.
int64_t peak(int64_t rounds, float* sink) {
  alignas(64) unsigned char values[kTileRows][kLineBytes];
  __builtin_memset(values, 0x3c, sizeof(values));  // 0.0115 as bfloat16
  set_shapes(2 * kTileRows);
  before_tiles_read(values);
  _tile_loadd(4, values, kLineBytes);
  _tile_loadd(5, values, kLineBytes);
  _tile_loadd(6, values, kLineBytes);
  _tile_loadd(7, values, kLineBytes);
  for (int64_t round = 0; round < rounds; ++round) {
    multiply_add<0, 0>();
    multiply_add<0, 1>();
    multiply_add<1, 0>();
    multiply_add<1, 1>();
  }
  _tile_stored(3, values, kLineBytes);
  _tile_release();
  __builtin_memcpy(sink, values, sizeof(*sink));
  return rounds * 4 * kTileRows * kPanelWidth * kTileLines * kLineValues;
}

}  // namespace
}  // namespace fct
