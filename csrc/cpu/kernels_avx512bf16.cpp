// bfloat16 tiles on AVX-512 BF16: vdpbf16ps adds two products a lane to a float32 sum.
//
// A register tile is 6 rows by 4 panels, as in float32. All of the depth is summed in registers, since y may be
// bfloat16 and cannot hold partial sums; a tile of panels (256 KiB at depth 2048) is read from L2 for each row tile.
// Reduction order of one y[r][c]: pairs ascending, whatever the tile, block or thread.
#include <immintrin.h>

#include "cpu/finish_bf16_avx512.hpp"
#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

constexpr int kTileRows = 6;
constexpr int kTilePanels = 4;
constexpr int64_t kPairWidth = 2 * kPanelWidth;  // bfloat16 values of a depth pair in a panel: one cache line

__m512bh as_bf16(__m512i bits) { return reinterpret_cast<__m512bh>(bits); }

template <int Rows, int Panels>
void run_tile(const Bf16TileArgs& args, int64_t row, int64_t panel) {
  const int64_t panel_stride = args.pairs * kPairWidth;
  const uint16_t* const w = args.panels + panel * panel_stride;
  const uint16_t* const x = args.x + row * args.x_stride;
  __m512 sum[Rows][Panels];
#pragma GCC unroll 32
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 32
    for (int c = 0; c < Panels; ++c) sum[r][c] = _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < args.pairs; ++k) {
    __m512bh column[Panels];
#pragma GCC unroll 32
    for (int c = 0; c < Panels; ++c) column[c] = as_bf16(_mm512_loadu_si512(w + c * panel_stride + k * kPairWidth));
#pragma GCC unroll 32
    for (int r = 0; r < Rows; ++r) {
      int32_t pair;
      __builtin_memcpy(&pair, x + r * args.x_stride + 2 * k, sizeof(pair));
      const __m512bh value = as_bf16(_mm512_set1_epi32(pair));
#pragma GCC unroll 32
      for (int c = 0; c < Panels; ++c) sum[r][c] = _mm512_dpbf16_ps(sum[r][c], value, column[c]);
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 32
    for (int c = 0; c < Panels; ++c) finish(args, row + r, panel + c, sum[r][c]);
  }
}

template <int Rows, int Panels>
void pick_tile(const Bf16TileArgs& args, int64_t row, int64_t panel) {
  if constexpr (Rows > 1) {
    if (args.rows - row < Rows) return pick_tile<Rows - 1, Panels>(args, row, panel);
  }
  if constexpr (Panels > 1) {
    if (args.panel_count - panel < Panels) return pick_tile<Rows, Panels - 1>(args, row, panel);
  }
  run_tile<Rows, Panels>(args, row, panel);
}

// Asks for a share of the next panels; see prefetch_share in tile_body.hpp, also for why it is always inline.
[[gnu::always_inline]] inline void prefetch_share(const uint16_t* panels, int64_t lines, int64_t share,
                                                  int64_t shares) {
  const int64_t end = lines * (share + 1) / shares;
  for (int64_t i = lines * share / shares; i < end; ++i) __builtin_prefetch(panels + i * kPairWidth, 0, 2);
}

void tile(const Bf16TileArgs* args) {
  const int64_t row_tiles = (args->rows + kTileRows - 1) / kTileRows;
  for (int64_t p = 0; p < args->panel_count; p += kTilePanels) {
    const int64_t after = args->panel_count - p - kTilePanels;
    const int64_t lines = after <= 0 ? 0 : (after < kTilePanels ? after : kTilePanels) * args->pairs;
    const uint16_t* const next = args->panels + (p + kTilePanels) * args->pairs * kPairWidth;
    for (int64_t r = 0; r < args->rows; r += kTileRows) {
      // With one row tile a panel is used once: the hardware streams it well enough alone.
      if (row_tiles > 1) prefetch_share(next, lines, r / kTileRows, row_tiles);
      pick_tile<kTileRows, kTilePanels>(*args, r, p);
    }
  }
}

// See cpu/peak_body.hpp.
int64_t peak(int64_t rounds, float* sink) {
  constexpr int kSums = kTileRows * kTilePanels;
  __m512 sum[kSums];
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512bh a = as_bf16(_mm512_set1_epi32(0x3f003f00)), b = as_bf16(_mm512_set1_epi32(0x38d138d1));  // 0.5, 1e-4
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) sum[i] = _mm512_dpbf16_ps(sum[i], a, b);
  }
  __m512 total = sum[0];
#pragma GCC unroll 32
  for (int i = 1; i < kSums; ++i) total = _mm512_add_ps(total, sum[i]);
  *sink = _mm512_cvtss_f32(total);
  return rounds * kSums * 32;
}

}  // namespace

const Bf16Table kAvx512Bf16Kernels{.tile = tile, .narrow = narrow, .peak = peak};

}  // namespace fct
