// Quads of 8 columns: AVX2.
//
// vpmaddubsw would multiply the bytes as they are, but saturates its sums of two products at 32767, and u8 x s8 reaches
// 64770. So bytes are widened to int16 and multiplied with vpmaddwd, which is exact: two multiplies a 32 products, as
// many as vpmaddubsw and the vpmaddwd that must follow it.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/vec_avx2.hpp"

namespace fct {
namespace {

// A lane a column: four bytes of its depth, or the int32 sum of it.
struct Quads {
  static constexpr int kLanes = 8;
  static constexpr int kTileRows = 6;  // 6 x 2 sums, 2 weights, 1 broadcast, 1 product: all 16 registers

  __m256i v;

  static Quads load(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
  static Quads splat(int32_t pair) { return {_mm256_set1_epi32(pair)}; }
  void store(int32_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }

  // Bytes 0 and 2, or 1 and 3, of each quad as a pair of int16.
  Quads signed_even() const { return {_mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8)}; }
  Quads signed_odd() const { return {_mm256_srai_epi16(v, 8)}; }
  Quads unsigned_even() const { return {_mm256_and_si256(v, _mm256_set1_epi32(0x00ff00ff))}; }
  Quads unsigned_odd() const { return {_mm256_srli_epi16(v, 8)}; }

  // sum + a_0 b_0 + a_1 b_1 over the pairs of each lane. The addition is spelt out, into the register of the sum: GCC
  // would else add the products of even and odd bytes first, keep 12 of them about, and spill all sums.
  static Quads pairs_add(Quads a, Quads b, Quads sum) {
    const __m256i products = _mm256_madd_epi16(a.v, b.v);
    asm("vpaddd %1, %0, %0" : "+x"(sum.v) : "x"(products));
    return sum;
  }

  Vec to_float() const { return {_mm256_cvtepi32_ps(v)}; }

  // vmaxps returns its second operand where either is NaN; the conversion rounds half to even.
  static void narrow(Vec y, uint8_t* target) {
    const __m256 clamped = _mm256_min_ps(_mm256_max_ps(y.v, _mm256_setzero_ps()), _mm256_set1_ps(255.0f));
    const __m256i wide = _mm256_cvtps_epi32(clamped);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(target), _mm_packus_epi16(words, words));
  }
};

}  // namespace
}  // namespace fct
