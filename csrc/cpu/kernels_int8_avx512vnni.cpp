// int8 tiles on AVX-512 VNNI: vpdpbusd adds four products a lane to an int32 sum, without saturation.
//
// A register tile is 6 rows by 4 panels, laid out as in bfloat16. What is computed is defined in cpu/kernel_table.hpp.
#include <immintrin.h>

#include "cpu/finish_int8_avx512.hpp"
#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

constexpr int kTileRows = 6;
constexpr int kTilePanels = 4;
constexpr int64_t kQuadWidth = 4 * kPanelWidth;  // bytes of a depth quad in a panel: one cache line

template <int Rows, int Panels>
void run_tile(const Int8TileArgs& args, int64_t row, int64_t panel) {
  const int64_t panel_stride = args.quads * kQuadWidth;
  const int8_t* const w = args.panels + panel * panel_stride;
  const uint8_t* const x = args.x + row * args.x_stride;
  __m512i sum[Rows][Panels];
#pragma GCC unroll 32
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 32
    for (int c = 0; c < Panels; ++c) sum[r][c] = _mm512_setzero_si512();
  }
  for (int64_t k = 0; k < args.quads; ++k) {
    __m512i column[Panels];
#pragma GCC unroll 32
    for (int c = 0; c < Panels; ++c) column[c] = _mm512_loadu_si512(w + c * panel_stride + k * kQuadWidth);
#pragma GCC unroll 32
    for (int r = 0; r < Rows; ++r) {
      int32_t quad;
      __builtin_memcpy(&quad, x + r * args.x_stride + 4 * k, sizeof(quad));
      const __m512i value = _mm512_set1_epi32(quad);
#pragma GCC unroll 32
      for (int c = 0; c < Panels; ++c) {
        sum[r][c] = _mm512_dpbusd_epi32(sum[r][c], value, column[c]);
        asm("" : "+v"(sum[r][c]));  // holds the sum in its register: GCC would else copy it about, and spill
      }
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 32
    for (int c = 0; c < Panels; ++c) finish(args, row + r, panel + c, sum[r][c]);
  }
}

template <int Rows, int Panels>
void pick_tile(const Int8TileArgs& args, int64_t row, int64_t panel) {
  if constexpr (Rows > 1) {
    if (args.rows - row < Rows) return pick_tile<Rows - 1, Panels>(args, row, panel);
  }
  if constexpr (Panels > 1) {
    if (args.panel_count - panel < Panels) return pick_tile<Rows, Panels - 1>(args, row, panel);
  }
  run_tile<Rows, Panels>(args, row, panel);
}

// Asks for a share of the next panels; see prefetch_share in tile_body.hpp, also for why it is always inline.
[[gnu::always_inline]] inline void prefetch_share(const int8_t* panels, int64_t lines, int64_t share, int64_t shares) {
  const int64_t end = lines * (share + 1) / shares;
  for (int64_t i = lines * share / shares; i < end; ++i) __builtin_prefetch(panels + i * kQuadWidth, 0, 2);
}

void tile(const Int8TileArgs* args) {
  const int64_t row_tiles = (args->rows + kTileRows - 1) / kTileRows;
  for (int64_t p = 0; p < args->panel_count; p += kTilePanels) {
    const int64_t after = args->panel_count - p - kTilePanels;
    const int64_t lines = after <= 0 ? 0 : (after < kTilePanels ? after : kTilePanels) * args->quads;
    const int8_t* const next = args->panels + (p + kTilePanels) * args->quads * kQuadWidth;
    for (int64_t r = 0; r < args->rows; r += kTileRows) {
      if (row_tiles > 1) prefetch_share(next, lines, r / kTileRows, row_tiles);
      pick_tile<kTileRows, kTilePanels>(*args, r, p);
    }
  }
}

// See cpu/peak_body.hpp.
int64_t peak(int64_t rounds, float* sink) {
  constexpr int kSums = kTileRows * kTilePanels;
  __m512i sum[kSums];
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) sum[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi32(0x01020304), b = _mm512_set1_epi32(0x01ff01ff);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) {
      sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
      asm("" : "+v"(sum[i]));  // as in run_tile
    }
  }
  __m512i total = sum[0];
#pragma GCC unroll 32
  for (int i = 1; i < kSums; ++i) total = _mm512_xor_si512(total, sum[i]);
  *sink = static_cast<float>(_mm_cvtsi128_si32(_mm512_castsi512_si128(total)));
  return rounds * kSums * 64;
}

}  // namespace

const Int8Table kAvx512VnniInt8Kernels{.tile = tile, .narrow = narrow, .peak = peak};

}  // namespace fct
