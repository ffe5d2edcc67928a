// The intrinsics of the AVX-512 and AMX kernels in plain C++, for machines without them: found before the compiler's
// own header when csrc/cpu is compiled for the tests (CMakeLists.txt here). Each does what Intel's manual says of its
// instruction; payloads of NaN are not modelled. What a kernel uses and is not here does not compile.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

// As in the real header these are vectors, since the kernels cast bits from one type to the other.
typedef float __m128 __attribute__((vector_size(16)));
typedef float __m256 __attribute__((vector_size(32)));
typedef float __m512 __attribute__((vector_size(64)));
typedef double __m512d __attribute__((vector_size(64)));
typedef long long __m128i __attribute__((vector_size(16)));
typedef long long __m256i __attribute__((vector_size(32)));
typedef long long __m512i __attribute__((vector_size(64)));
typedef uint16_t __m256bh __attribute__((vector_size(32)));
typedef uint16_t __m512bh __attribute__((vector_size(64)));
typedef uint16_t __mmask16;

namespace emulated {

typedef uint8_t Bytes16 __attribute__((vector_size(16)));
typedef uint16_t Words16 __attribute__((vector_size(32)));
typedef uint32_t Lanes16 __attribute__((vector_size(64)));

inline float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }
inline uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
inline float float_of_bf16(uint16_t bits) { return float_of(static_cast<uint32_t>(bits) << 16); }

template <typename V>
V load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}

template <typename V, typename Lane>
V each(Lane lane) {
  V v{};
  for (int i = 0; i < static_cast<int>(sizeof(V) / sizeof(v[0])); ++i) v[i] = lane(i);
  return v;
}

// Subnormals count as zero: the state in which the bfloat16 products run, whatever MXCSR says.
inline float flushed(float x) { return (bits_of(x) & 0x7f800000u) == 0 ? float_of(bits_of(x) & 0x80000000u) : x; }
inline float add_flushed(float a, float b) { return flushed(flushed(a) + flushed(b)); }
inline float fma_flushed(float a, float b, float c) { return flushed(std::fma(flushed(a), flushed(b), flushed(c))); }

inline float float_of_half(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  if (exponent == 31 && fraction != 0) return float_of(sign | 0x7fc00000u | static_cast<uint32_t>(fraction) << 13);
  const float magnitude = exponent == 31  ? INFINITY
                          : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                          : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return std::copysign(magnitude, float_of(sign | 1));
}

// vcvtneps2bf16: half to even, subnormals to zero, NaN made quiet.
inline uint16_t bf16_of(float x) {
  const uint32_t bits = bits_of(flushed(x));
  if (std::isnan(x)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  if (std::isinf(x)) return static_cast<uint16_t>(bits >> 16);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// vcvtps2dq in the default rounding; what does not fit is the "integer indefinite".
inline int32_t int_of(float x) {
  const float rounded = std::nearbyint(x);
  return rounded >= -0x1p31f && rounded < 0x1p31f ? static_cast<int32_t>(rounded) : INT32_MIN;
}

}  // namespace emulated

// 128 and 256 bits

inline __m128 _mm_loadu_ps(const float* p) { return emulated::load<__m128>(p); }
inline void _mm_storeu_si128(__m128i* p, __m128i v) { std::memcpy(static_cast<void*>(p), &v, sizeof(v)); }

inline __m256i _mm256_loadu_si256(const __m256i* p) { return emulated::load<__m256i>(p); }
inline void _mm256_storeu_ps(float* p, __m256 v) { std::memcpy(p, &v, sizeof(v)); }
inline void _mm256_storeu_si256(__m256i* p, __m256i v) { std::memcpy(static_cast<void*>(p), &v, sizeof(v)); }

// The upper half is undefined: whoever reads it finds NaN.
inline __m256 _mm256_castps128_ps256(__m128 v) {
  return emulated::each<__m256>([&](int i) { return i < 4 ? v[i] : NAN; });
}
inline __m256 _mm256_insertf128_ps(__m256 v, __m128 half, int where) {
  return emulated::each<__m256>([&](int i) { return i / 4 == where ? half[i % 4] : v[i]; });
}

// These three work in each half of 128 bits alone.
inline __m256 _mm256_unpacklo_ps(__m256 a, __m256 b) {
  return emulated::each<__m256>([&](int i) { return i % 2 ? b[i / 4 * 4 + i % 4 / 2] : a[i / 4 * 4 + i % 4 / 2]; });
}
inline __m256 _mm256_unpackhi_ps(__m256 a, __m256 b) {
  return emulated::each<__m256>(
      [&](int i) { return i % 2 ? b[i / 4 * 4 + 2 + i % 4 / 2] : a[i / 4 * 4 + 2 + i % 4 / 2]; });
}
inline __m256 _mm256_shuffle_ps(__m256 a, __m256 b, int picks) {
  return emulated::each<__m256>([&](int i) {
    const int from = i / 4 * 4 + (picks >> i % 4 * 2 & 3);
    return i % 4 < 2 ? a[from] : b[from];
  });
}

// Lanes that the mask leaves out are not touched in memory.
inline void _mm256_mask_storeu_epi16(void* p, __mmask16 mask, __m256i v) {
  const auto words = reinterpret_cast<emulated::Words16>(v);
  for (int i = 0; i < 16; ++i) {
    const uint16_t word = words[i];
    if (mask >> i & 1) std::memcpy(static_cast<char*>(p) + 2 * i, &word, 2);
  }
}

// 512 bits: moves

inline __m512 _mm512_loadu_ps(const float* p) { return emulated::load<__m512>(p); }
inline __m512i _mm512_loadu_si512(const void* p) { return emulated::load<__m512i>(p); }
inline void _mm512_storeu_ps(float* p, __m512 v) { std::memcpy(p, &v, sizeof(v)); }
inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const float* p) {
  return emulated::each<__m512>([&](int i) { return mask >> i & 1 ? p[i] : 0.0f; });
}
inline __m512 _mm512_set1_ps(float x) {
  return emulated::each<__m512>([&](int) { return x; });
}
inline __m512d _mm512_set1_pd(double x) {
  return emulated::each<__m512d>([&](int) { return x; });
}
inline __m512i _mm512_set1_epi32(int32_t x) {
  return reinterpret_cast<__m512i>(emulated::each<emulated::Lanes16>([&](int) { return static_cast<uint32_t>(x); }));
}
inline __m512 _mm512_setzero_ps() { return __m512{}; }
inline __m512d _mm512_setzero_pd() { return __m512d{}; }
inline __m512i _mm512_setzero_si512() { return __m512i{}; }
inline float _mm512_cvtss_f32(__m512 v) { return v[0]; }
inline int _mm_cvtsi128_si32(__m128i v) { return static_cast<int>(v[0]); }
inline __m128i _mm512_castsi512_si128(__m512i v) { return __m128i{v[0], v[1]}; }
inline __m512 _mm512_castsi512_ps(__m512i v) { return reinterpret_cast<__m512>(v); }
inline __m256 _mm512_castps512_ps256(__m512 v) {
  return emulated::each<__m256>([&](int i) { return v[i]; });
}
inline __m512 _mm512_castps256_ps512(__m256 v) {  // the upper half is undefined
  return emulated::each<__m512>([&](int i) { return i < 8 ? v[i] : NAN; });
}
inline __m256 _mm512_extractf32x8_ps(__m512 v, int where) {
  return emulated::each<__m256>([&](int i) { return v[8 * where + i]; });
}
inline __m512 _mm512_insertf32x8(__m512 v, __m256 half, int where) {
  return emulated::each<__m512>([&](int i) { return i / 8 == where ? half[i % 8] : v[i]; });
}
inline __m512i _mm512_slli_epi32(__m512i v, unsigned bits) {
  const auto lanes = reinterpret_cast<emulated::Lanes16>(v);
  return reinterpret_cast<__m512i>(
      emulated::each<emulated::Lanes16>([&](int i) { return bits < 32 ? lanes[i] << bits : 0u; }));
}

// 512 bits: arithmetic. The sums of a tile come through here, so no copy of it for each of them.

inline __m512 _mm512_add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 _mm512_sub_ps(__m512 a, __m512 b) { return a - b; }
inline __m512 _mm512_mul_ps(__m512 a, __m512 b) { return a * b; }
inline __m512i _mm512_xor_si512(__m512i a, __m512i b) { return a ^ b; }
inline __m512d _mm512_add_pd(__m512d a, __m512d b) { return a + b; }
inline __m512d _mm512_mul_pd(__m512d a, __m512d b) { return a * b; }
[[gnu::noinline]] inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return emulated::each<__m512>([&](int i) { return std::fma(a[i], b[i], c[i]); });
}
[[gnu::noinline]] inline __m512 _mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) {
  return emulated::each<__m512>([&](int i) { return std::fma(-a[i], b[i], c[i]); });
}
inline __m512d _mm512_fmadd_pd(__m512d a, __m512d b, __m512d c) {
  return emulated::each<__m512d>([&](int i) { return std::fma(a[i], b[i], c[i]); });
}
// vmaxps, vminps: the second operand where either is NaN or both are zero.
inline __m512 _mm512_max_ps(__m512 a, __m512 b) {
  return emulated::each<__m512>([&](int i) { return a[i] > b[i] ? a[i] : b[i]; });
}
inline __m512 _mm512_min_ps(__m512 a, __m512 b) {
  return emulated::each<__m512>([&](int i) { return a[i] < b[i] ? a[i] : b[i]; });
}
// No instruction: the compiler's header halves the vector till one number is left.
inline double _mm512_reduce_add_pd(__m512d v) {
  const auto pair = [&](int i) { return v[i + 4] + v[i]; };
  return (pair(2) + pair(0)) + (pair(3) + pair(1));
}
constexpr int _CMP_GT_OQ = 0x1e;
inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int predicate) {
  if (predicate != _CMP_GT_OQ) std::abort();
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= (a[i] > b[i] ? 1u : 0u) << i;
  return static_cast<__mmask16>(mask);
}

// 512 bits: conversions

inline __m512 _mm512_cvtph_ps(__m256i v) {
  const auto words = reinterpret_cast<emulated::Words16>(v);
  return emulated::each<__m512>([&](int i) { return emulated::float_of_half(words[i]); });
}
inline __m512i _mm512_cvtepu16_epi32(__m256i v) {
  const auto words = reinterpret_cast<emulated::Words16>(v);
  return reinterpret_cast<__m512i>(
      emulated::each<emulated::Lanes16>([&](int i) { return static_cast<uint32_t>(words[i]); }));
}
inline __m512d _mm512_cvtps_pd(__m256 v) {
  return emulated::each<__m512d>([&](int i) { return static_cast<double>(v[i]); });
}
inline __m256 _mm512_cvtpd_ps(__m512d v) {
  return emulated::each<__m256>([&](int i) { return static_cast<float>(v[i]); });
}
inline __m512i _mm512_cvtps_epi32(__m512 v) {
  return reinterpret_cast<__m512i>(
      emulated::each<emulated::Lanes16>([&](int i) { return static_cast<uint32_t>(emulated::int_of(v[i])); }));
}
inline __m512 _mm512_cvtepi32_ps(__m512i v) {
  const auto lanes = reinterpret_cast<emulated::Lanes16>(v);
  return emulated::each<__m512>([&](int i) { return static_cast<float>(static_cast<int32_t>(lanes[i])); });
}
inline __m128i _mm512_cvtusepi32_epi8(__m512i v) {  // lanes are unsigned and saturate
  const auto lanes = reinterpret_cast<emulated::Lanes16>(v);
  return reinterpret_cast<__m128i>(
      emulated::each<emulated::Bytes16>([&](int i) { return static_cast<uint8_t>(lanes[i] > 255 ? 255 : lanes[i]); }));
}
inline __m256bh _mm512_cvtneps_pbh(__m512 v) {
  return emulated::each<__m256bh>([&](int i) { return emulated::bf16_of(v[i]); });
}

// 512 bits: products of pairs and quads

// vdpbf16ps: the upper value of each pair first, each product fused into the sum.
[[gnu::noinline]] inline __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  return emulated::each<__m512>([&](int i) {
    const auto product = [&](int j, float s) {
      return emulated::fma_flushed(emulated::float_of_bf16(a[j]), emulated::float_of_bf16(b[j]), s);
    };
    return product(2 * i, product(2 * i + 1, sum[i]));
  });
}
// vpdpbusd: unsigned bytes of a, signed ones of b; the sum wraps round.
[[gnu::noinline]] inline __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  uint8_t x[64];
  int8_t w[64];
  std::memcpy(x, &a, 64);
  std::memcpy(w, &b, 64);
  const auto lanes = reinterpret_cast<emulated::Lanes16>(sum);
  return reinterpret_cast<__m512i>(emulated::each<emulated::Lanes16>([&](int i) {
    uint32_t total = lanes[i];
    for (int j = 4 * i; j < 4 * i + 4; ++j) total += static_cast<uint32_t>(x[j] * w[j]);
    return total;
  }));
}

#include "amx_tiles.hpp"

// The kernels hold sums in vector registers by asm("" : "+v"(sum)); there are none here.
#define asm(...)
