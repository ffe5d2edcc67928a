// int8 tiles on AVX-512 VNNI: vpdpbusd adds four products a lane to an int32 sum, without saturation.
// What is computed is defined in cpu/kernel_table.hpp.
#include <immintrin.h>

#include "cpu/finish_int8_avx512.hpp"
#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

using Sums = __m512i;

Sums zero_sums() { return _mm512_setzero_si512(); }

[[gnu::always_inline]] inline void multiply_add(Sums& sum, __m512i value, __m512i column) {
  sum = _mm512_dpbusd_epi32(sum, value, column);
  asm("" : "+v"(sum));  // holds the sum in its register: GCC would else copy it about, and spill
}

}  // namespace
}  // namespace fct

// The body is written over the functions above.
#include "cpu/line_tile_avx512.hpp"

namespace fct {
namespace {

void tile(const Int8TileArgs* args) {
  run_all(*args, {.x = args->x,
                  .x_stride = args->x_stride,
                  .rows = args->rows,
                  .panels = reinterpret_cast<const unsigned char*>(args->panels),
                  .panel_count = args->panel_count,
                  .lines = args->quads});
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
    for (int i = 0; i < kSums; ++i) multiply_add(sum[i], a, b);
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
