// Rows as the exact score sees them, and what coarse scoring knows of a row.
//
// The exact score of a pair is the CPU's (csrc/cpu/tile_body.hpp): float32 elements, for the cosine at unit norm,
// summed by fused multiply-adds in column order within runs of 128 columns, runs added in order. Every path ends in it,
// so which path ran cannot be told from a result.
#pragma once

#include <cmath>

#include "cuda/simt/simt.hpp"
#include "cuda/topk/order.hpp"

namespace fct::cuda::topk {

enum class Metric : int32_t { cosine = 0, inner_product = 1, l2 = 2 };

// Sums over columns are cut into runs of this length, like csrc/cpu/kernel_table.hpp.
constexpr int kDepthRun = 128;

// A norm below the smallest normal float counts as zero, like csrc/core/rows.cpp.
constexpr double kSmallestNorm = 1.17549435082228750797e-38;

// Rows of T in device memory, columns contiguous.
template <typename T>
struct Rows {
  const T* data;
  int64_t rows;
  int64_t stride;  // in elements
  int32_t cols;

  FCT_DEVICE const T* row(int64_t r) const { return data + r * stride; }
};

// Squared norm by one warp, the same bits wherever it is computed: lane by lane in column order, then the lanes
// pairwise. NaN where an element is NaN, Inf where one is Inf and none is NaN: squares of floats do not overflow a
// double.
template <typename T>
FCT_DEVICE double squares_of_row(const T* row, int cols) {
  double sum = 0.0;
  for (int c = lane_index(); c < cols; c += kWarpLanes) {
    const double x = widen(row[c]);
    sum = fma(x, x, sum);
  }
  return reduce_warp(sum, [](double a, double b) { return a + b; });
}

// What elements of the row are multiplied by.
FCT_DEVICE double unit_scale(double squares) {
  const double norm = sqrt(squares);
  return norm < kSmallestNorm ? 0.0 : 1.0 / norm;
}

template <Metric metric, typename T>
FCT_DEVICE float exact_element(T x, double scale) {
  if constexpr (metric == Metric::cosine) return static_cast<float>(widen(x) * scale);
  return widen(x);
}

// One step of the exact score; higher is nearer, so a distance counts down.
template <Metric metric>
FCT_DEVICE float exact_step(float q, float g, float sum) {
  if constexpr (metric == Metric::l2) {
    const float difference = q - g;
    return fmaf(-difference, difference, sum);
  }
  return fmaf(q, g, sum);
}

}  // namespace fct::cuda::topk
