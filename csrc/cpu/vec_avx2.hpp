// Vec of 8 floats: AVX2, FMA and F16C.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fct {
namespace {

struct Vec {
  static constexpr int kLanes = 8;
  static constexpr int kTileRows = 6;  // 6 x 2 sums, 2 weights, 1 broadcast: 15 of 16 registers
  static constexpr int kTilePanels = 1;
  static constexpr int kOneRowPanels = 4;

  __m256 v;

  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static Vec load_bf16(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
  }
  static Vec splat(float x) { return {_mm256_set1_ps(x)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }

  friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
  static Vec mul_add(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  static Vec minus_mul_add(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }

  // x * factor in float64, rounded once.
  static Vec scaled(Vec x, double factor) {
    const __m256d f = _mm256_set1_pd(factor);
    const __m128 low = _mm256_cvtpd_ps(_mm256_mul_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(x.v)), f));
    const __m128 high = _mm256_cvtpd_ps(_mm256_mul_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(x.v, 1)), f));
    return {_mm256_set_m128(high, low)};
  }

  // max(x, 0) that lets NaN pass: vmaxps returns its second operand where either is NaN.
  static Vec relu(Vec x) { return {_mm256_max_ps(_mm256_setzero_ps(), x.v)}; }

  // Bit i is set where a[i] > b[i]; never for NaN.
  static uint32_t greater(Vec a, Vec b) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)));
  }
};

// Running sums of squares in float64.
struct SquareSum {
  __m256d low = _mm256_setzero_pd();
  __m256d high = _mm256_setzero_pd();

  void add(Vec x) {
    const __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(x.v));
    const __m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(x.v, 1));
    low = _mm256_fmadd_pd(a, a, low);
    high = _mm256_fmadd_pd(b, b, high);
  }
  double total() const {
    double part[4];
    _mm256_storeu_pd(part, _mm256_add_pd(low, high));
    return (part[0] + part[1]) + (part[2] + part[3]);
  }
};

}  // namespace
}  // namespace fct
