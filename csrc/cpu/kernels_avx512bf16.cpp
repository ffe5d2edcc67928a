// bfloat16 tiles on AVX-512 BF16: vdpbf16ps adds two products a lane to a float32 sum.
#include <immintrin.h>

#include "cpu/finish_bf16_avx512.hpp"
#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

using Sums = __m512;

Sums zero_sums() { return _mm512_setzero_ps(); }

__m512bh as_bf16(__m512i bits) { return reinterpret_cast<__m512bh>(bits); }

[[gnu::always_inline]] inline void multiply_add(Sums& sum, __m512i value, __m512i column) {
  sum = _mm512_dpbf16_ps(sum, as_bf16(value), as_bf16(column));
}

}  // namespace
}  // namespace fct

// The body is written over the functions above.
#include "cpu/line_tile_avx512.hpp"

namespace fct {
namespace {

void tile(const Bf16TileArgs* args) {
  run_all(*args, {.x = reinterpret_cast<const unsigned char*>(args->x),
                  .x_stride = 2 * args->x_stride,
                  .rows = args->rows,
                  .panels = reinterpret_cast<const unsigned char*>(args->panels),
                  .panel_count = args->panel_count,
                  .lines = args->pairs});
}

// See cpu/peak_body.hpp.
int64_t peak(int64_t rounds, float* sink) {
  constexpr int kSums = kTileRows * kTilePanels;
  __m512 sum[kSums];
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512i a = _mm512_set1_epi32(0x3f003f00), b = _mm512_set1_epi32(0x38d138d1);  // 0.5, 1e-4
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) multiply_add(sum[i], a, b);
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
