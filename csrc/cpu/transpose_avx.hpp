// An 8 x 8 block of floats turned in registers: 16 loads of half rows and 16 shuffles. AVX; the wider levels use it,
// too, since a gallery comes from memory no faster.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fct {
namespace {

constexpr int64_t kTransposeSize = 8;

// target[k * target_stride + r] = source[r * source_stride + k] for r and k in [0, 8).
inline void transpose_block(const float* source, int64_t source_stride, float* target, int64_t target_stride) {
  // Rows r and r + 4 share a register: columns k .. k + 3 of each.
  const auto pair = [&](int64_t r, int64_t k) {
    const __m256 low = _mm256_castps128_ps256(_mm_loadu_ps(source + r * source_stride + k));
    return _mm256_insertf128_ps(low, _mm_loadu_ps(source + (r + 4) * source_stride + k), 1);
  };
#pragma GCC unroll 2
  for (int64_t k = 0; k < 8; k += 4) {
    const __m256 a = pair(0, k), b = pair(1, k), c = pair(2, k), d = pair(3, k);
    const __m256 ab_low = _mm256_unpacklo_ps(a, b), ab_high = _mm256_unpackhi_ps(a, b);
    const __m256 cd_low = _mm256_unpacklo_ps(c, d), cd_high = _mm256_unpackhi_ps(c, d);
    float* const out = target + k * target_stride;
    _mm256_storeu_ps(out, _mm256_shuffle_ps(ab_low, cd_low, 0x44));
    _mm256_storeu_ps(out + target_stride, _mm256_shuffle_ps(ab_low, cd_low, 0xee));
    _mm256_storeu_ps(out + 2 * target_stride, _mm256_shuffle_ps(ab_high, cd_high, 0x44));
    _mm256_storeu_ps(out + 3 * target_stride, _mm256_shuffle_ps(ab_high, cd_high, 0xee));
  }
}

}  // namespace
}  // namespace fct
