// Quads of 4 columns in the compiler's own vector extension: SSE2 on x86-64, NEON on Arm.
#pragma once

#include <cstdint>

#include "cpu/vec_scalar.hpp"

namespace fct {
namespace {

// A lane a column: four bytes of its depth, or the int32 sum of it.
struct Quads {
  typedef int32_t Lanes __attribute__((vector_size(16)));
  typedef int16_t Pairs __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr int kTileRows = 2;

  Lanes v;

  static Quads load(const void* p) {
    Quads q;
    __builtin_memcpy(&q.v, p, sizeof(Lanes));
    return q;
  }
  static Quads splat(int32_t pair) { return {Lanes{pair, pair, pair, pair}}; }
  void store(int32_t* p) const { __builtin_memcpy(p, &v, sizeof(Lanes)); }

  // Bytes 0 and 2, or 1 and 3, of each quad as a pair of int16.
  Quads signed_even() const { return {(Lanes)(((Pairs)v << 8) >> 8)}; }
  Quads signed_odd() const { return {(Lanes)((Pairs)v >> 8)}; }
  Quads unsigned_even() const { return {v & 0x00ff00ff}; }
  Quads unsigned_odd() const { return {(v >> 8) & 0x00ff00ff}; }

  // sum + a_0 b_0 + a_1 b_1 over the pairs of each lane.
  static Quads pairs_add(Quads a, Quads b, Quads sum) {
#if defined(__SSE2__)
    typedef short Shorts __attribute__((vector_size(16)));
    return {sum.v + (Lanes)__builtin_ia32_pmaddwd128((Shorts)a.v, (Shorts)b.v)};
#else
    const Pairs x = (Pairs)a.v, w = (Pairs)b.v;
    for (int i = 0; i < kLanes; ++i) sum.v[i] += x[2 * i] * w[2 * i] + x[2 * i + 1] * w[2 * i + 1];
    return sum;
#endif
  }

  Vec to_float() const { return {__builtin_convertvector(v, Vec::Lanes)}; }

  // Adding 2^23 puts the spacing of float at 1, so the addition itself rounds half to even.
  static void narrow(Vec y, uint8_t* target) {
    const Vec::Lanes top = {255.0f, 255.0f, 255.0f, 255.0f}, one_apart = {0x1p23f, 0x1p23f, 0x1p23f, 0x1p23f};
    const Vec::Lanes positive = (Vec::Lanes)((Vec::Mask)y.v & (y.v > Vec::Lanes{}));  // 0 for NaN
    const Vec::Mask low = positive < top;
    const Vec::Lanes clamped = (Vec::Lanes)(((Vec::Mask)positive & low) | ((Vec::Mask)top & ~low));
    const Lanes bits = (Lanes)(clamped + one_apart);
    for (int i = 0; i < kLanes; ++i) target[i] = static_cast<uint8_t>(bits[i]);
  }
};

}  // namespace
}  // namespace fct
