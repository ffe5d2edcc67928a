#include "cuda/upgrade/narrow.hpp"

#include <algorithm>

#include "core/half.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fct::cuda {
namespace {

constexpr uint32_t kMagnitude = 0x7fffffffu;
constexpr uint32_t kInfinity = 0x7f800000u;
// The smallest magnitudes that round to infinity.
constexpr uint32_t kPastHalf = 0x477ff000u;
constexpr uint32_t kPastBfloat = 0x7f7f8000u;

// Both return the largest magnitude as bits: NaN lies above infinity, infinity above all numbers.
using Narrow = uint32_t (*)(const float* source, int64_t count, uint16_t* target);

template <uint16_t (*cast)(float)>
uint32_t narrow_plain(const float* source, int64_t count, uint16_t* target) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    target[i] = cast(source[i]);
    largest = std::max(largest, __builtin_bit_cast(uint32_t, source[i]) & kMagnitude);
  }
  return largest;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) inline uint32_t largest_lane(__m256i largest) {
  alignas(32) uint32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
  return *std::max_element(lanes, lanes + 8);
}

__attribute__((target("avx2,f16c"))) uint32_t narrow_half_avx2(const float* source, int64_t count, uint16_t* target) {
  __m256i largest = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 x = _mm256_loadu_ps(source + i);
    const __m256i bits = _mm256_castps_si256(x);
    largest = _mm256_max_epu32(largest, _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(kMagnitude))));
    const __m128i halves = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), halves);
  }
  return std::max(largest_lane(largest), narrow_plain<half_from_float>(source + i, count - i, target + i));
}

__attribute__((target("avx2"))) uint32_t narrow_bfloat_avx2(const float* source, int64_t count, uint16_t* target) {
  __m256i largest = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i));
    const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(kMagnitude)));
    largest = _mm256_max_epu32(largest, magnitude);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(static_cast<int>(kInfinity)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), _mm256_castsi256_si128(packed));
  }
  return std::max(largest_lane(largest), narrow_plain<bfloat_from_float>(source + i, count - i, target + i));
}
#endif

Narrow narrow_of(Dtype dtype) {
#if defined(__x86_64__)
  static const bool fast = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
  if (fast) return dtype == Dtype::f16 ? narrow_half_avx2 : narrow_bfloat_avx2;
#endif
  return dtype == Dtype::f16 ? narrow_plain<half_from_float> : narrow_plain<bfloat_from_float>;
}

}  // namespace

bool narrow_row(const float* source, int64_t count, Dtype dtype, uint16_t* target) {
  const uint32_t largest = narrow_of(dtype)(source, count, target);
  return largest < kInfinity && largest >= (dtype == Dtype::f16 ? kPastHalf : kPastBfloat);
}

bool is_finite_row(const unsigned char* row, int64_t count, Dtype dtype) {
  if (dtype == Dtype::f32) {
    const uint32_t* const bits = reinterpret_cast<const uint32_t*>(row);
    return std::all_of(bits, bits + count, [](uint32_t x) { return (x & kMagnitude) < kInfinity; });
  }
  const uint16_t infinity = dtype == Dtype::f16 ? 0x7c00 : 0x7f80;
  const uint16_t* const bits = reinterpret_cast<const uint16_t*>(row);
  return std::all_of(bits, bits + count, [infinity](uint16_t x) { return (x & 0x7fff) < infinity; });
}

}  // namespace fct::cuda
