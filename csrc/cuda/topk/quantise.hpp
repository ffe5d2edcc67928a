// A row in int8, for coarse scores: scale * whole numbers within -127 .. 127. What that loses is measured, not
// estimated, so the proof of bound.hpp holds however the numbers were rounded. The CPU's is core/coarse_gallery.hpp.
#pragma once

#include "cuda/topk/rows.hpp"

namespace fct::cuda::topk {

// How a row was packed: what its operand is multiplied by to be near it, and |row - that| / |row| at most.
struct Packed {
  double unscale;
  double loss;
};

// The largest magnitude, by one warp, as bits: those of floats without sign are in order.
template <typename T>
FCT_DEVICE uint32_t largest_of_row(const T* row, int cols) {
  uint32_t largest = 0;
  for (int c = lane_index(); c < cols; c += kWarpLanes) {
    const uint32_t magnitude = bits_of(widen(row[c])) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  return reduce_warp(largest, [](uint32_t a, uint32_t b) { return a > b ? a : b; });
}

// x as a whole number, half to even, for |x| <= 127 and a little: adding 1.5 * 2^23 puts the spacing of float at 1, and
// the low byte is then the number in two's complement.
FCT_DEVICE int8_t byte_of(float x) {
  const float within = x < -127.0f ? -127.0f : x > 127.0f ? 127.0f : x;
  return static_cast<int8_t>(bits_of(add(within, 12582912.0f)) & 0xffu);
}

// Writes `pairs` pairs, zeros from `cols` on, by one warp. `squares` is the row's squared norm, which is zero or
// ordinary (bound.hpp).
template <typename T>
FCT_DEVICE Packed quantise_row(const T* row, int cols, double squares, BytePair* target, int64_t pairs) {
  const float largest = float_from_bits(largest_of_row(row, cols));
  const float scale = largest / 127.0f;
  const float inverse = squares == 0.0 ? 0.0f : 1.0f / scale;
  double lost = 0.0;
  for (int64_t p = lane_index(); p < pairs; p += kWarpLanes) {
    uint32_t bits = 0;
    FCT_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (2 * p + i >= cols) continue;
      const float x = widen(row[2 * p + i]);
      const int8_t q = byte_of(multiply(x, inverse));
      const double difference = x - static_cast<double>(scale) * q;
      lost = fma(difference, difference, lost);
      bits |= static_cast<uint32_t>(static_cast<uint8_t>(q)) << 8 * i;
    }
    target[p].bits = static_cast<uint16_t>(bits);
  }
  lost = reduce_warp(lost, [](double a, double b) { return a + b; });
  if (squares == 0.0) return {1.0, 0.0};
  return {scale, sqrt(lost / squares) * (1.0 + 1e-9)};
}

}  // namespace fct::cuda::topk
