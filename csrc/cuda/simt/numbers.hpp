// The 16-bit formats as bits, and the conversions that kernels use: round half to even, NaN stays NaN, too large is
// Inf.
#pragma once

#include <cstdint>

#include "cuda/simt/base.hpp"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include "core/half.hpp"
#endif

namespace fct::cuda {

struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};
// Two signed bytes, the lower first, that take the place of one 16-bit element in tiles and fragments.
struct BytePair {
  uint16_t bits;
};

#if defined(__CUDACC__)

FCT_DEVICE float widen(Half x) { return __half2float(__ushort_as_half(x.bits)); }
FCT_DEVICE float widen(Bfloat x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
FCT_DEVICE void narrow(float x, Half& y) { y.bits = __half_as_ushort(__float2half_rn(x)); }
FCT_DEVICE void narrow(float x, Bfloat& y) { y.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
FCT_DEVICE uint32_t bits_of(float x) { return __float_as_uint(x); }
FCT_DEVICE uint64_t bits_of(double x) { return static_cast<uint64_t>(__double_as_longlong(x)); }
FCT_DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
// Rounded each, and never fused by the compiler.
FCT_DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
FCT_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
// The larger; NaN where either is.
FCT_DEVICE float larger(float a, float b) {
  float c;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
}
// Of two halves each, as unsigned numbers. From sm_90 on.
FCT_DEVICE uint32_t larger_halves(uint32_t a, uint32_t b) { return __vmaxu2(a, b); }
FCT_DEVICE double square_root(double x) { return __dsqrt_rn(x); }
FCT_DEVICE double reciprocal(double x) { return __drcp_rn(x); }

#else

FCT_DEVICE float widen(Half x) { return float_from_half(x.bits); }
FCT_DEVICE float widen(Bfloat x) { return float_from_bfloat(x.bits); }
FCT_DEVICE void narrow(float x, Half& y) { y.bits = half_from_float(x); }
FCT_DEVICE void narrow(float x, Bfloat& y) { y.bits = bfloat_from_float(x); }
FCT_DEVICE uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
FCT_DEVICE uint64_t bits_of(double x) { return __builtin_bit_cast(uint64_t, x); }
// One rounding, but for the rare float64 sum that lies between two floats; a call of fmaf is ten times slower here.
FCT_DEVICE float multiply_add(float a, float b, float c) {
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c));
}
FCT_DEVICE float multiply(float a, float b) { return a * b; }  // the build forbids contraction
FCT_DEVICE float add(float a, float b) { return a + b; }
FCT_DEVICE float larger(float a, float b) { return a != a || a > b ? a : b; }
FCT_DEVICE uint32_t larger_halves(uint32_t a, uint32_t b) {
  const uint32_t low = (a & 0xffffu) > (b & 0xffffu) ? a : b;
  return (a > b ? a : b) >> 16 << 16 | (low & 0xffffu);
}
FCT_DEVICE double square_root(double x) { return __builtin_sqrt(x); }
FCT_DEVICE double reciprocal(double x) { return 1.0 / x; }

#endif

FCT_DEVICE float widen(float x) { return x; }
FCT_DEVICE void narrow(float x, float& y) { y = x; }

template <typename T>
FCT_DEVICE T narrowed(float x) {
  T y;
  narrow(x, y);
  return y;
}

constexpr float kFloatInfinity = __builtin_huge_valf();

// By the exponent, so that no comparison is optimised away.
FCT_DEVICE bool is_finite(float x) { return (bits_of(x) & 0x7f800000u) != 0x7f800000u; }
FCT_DEVICE bool is_finite(double x) { return (bits_of(x) >> 52 & 0x7ffu) != 0x7ffu; }
FCT_DEVICE bool is_finite(Half x) { return (x.bits & 0x7c00u) != 0x7c00u; }
FCT_DEVICE bool is_finite(Bfloat x) { return (x.bits & 0x7f80u) != 0x7f80u; }

// 16 bytes as one access; the address must be a multiple of 16.
struct alignas(16) Chunk {
  uint32_t words[4];
};

}  // namespace fct::cuda
