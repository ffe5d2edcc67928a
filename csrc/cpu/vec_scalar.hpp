// Vec of 4 floats in the compiler's own vector extension: SSE2 on x86-64, NEON on Arm; no fused multiply-add.
#pragma once

#include <cstdint>

#include "core/half.hpp"

namespace fct {
namespace {

struct Vec {
  typedef float Lanes __attribute__((vector_size(16)));
  typedef int32_t Mask __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr int kTileRows = 3;
  static constexpr int kTilePanels = 1;
  static constexpr int kOneRowPanels = 2;

  Lanes v;

  static Vec load(const float* p) {
    Vec r;
    __builtin_memcpy(&r.v, p, sizeof(Lanes));
    return r;
  }
  static Vec load(const uint16_t* p, float (*widen)(uint16_t)) {
    return {Lanes{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])}};
  }
  static Vec load_f16(const uint16_t* p) { return load(p, float_from_half); }
  static Vec load_bf16(const uint16_t* p) { return load(p, float_from_bfloat); }
  static Vec splat(float x) { return {Lanes{x, x, x, x}}; }
  void store(float* p) const { __builtin_memcpy(p, &v, sizeof(Lanes)); }

  friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
  friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
  friend Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
  static Vec mul_add(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
  static Vec minus_mul_add(Vec a, Vec b, Vec c) { return {c.v - a.v * b.v}; }

  // x * factor in float64, rounded once.
  static Vec scaled(Vec x, double factor) {
    for (int i = 0; i < kLanes; ++i) x.v[i] = static_cast<float>(static_cast<double>(x.v[i]) * factor);
    return x;
  }

  // max(x, 0) that lets NaN pass.
  static Vec relu(Vec x) {
    const Mask negative = x.v < Lanes{};
    return {(Lanes)((Mask)x.v & ~negative)};
  }

  // Bit i is set where a[i] > b[i]; never for NaN.
  static uint32_t greater(Vec a, Vec b) {
    const Mask m = a.v > b.v;
    return (m[0] & 1u) | (m[1] & 2u) | (m[2] & 4u) | (m[3] & 8u);
  }
};

// Running sums of squares in float64.
struct SquareSum {
  double sum[4] = {};

  void add(Vec x) {
    for (int i = 0; i < 4; ++i) sum[i] += static_cast<double>(x.v[i]) * static_cast<double>(x.v[i]);
  }
  double total() const { return (sum[0] + sum[1]) + (sum[2] + sum[3]); }
};

}  // namespace
}  // namespace fct
