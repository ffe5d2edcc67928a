// Rows on their way to the tiles: widened to float32, scaled to unit norm where the metric is the cosine, and packed.
#pragma once

#include <cstdint>

#include "core/aligned_buffer.hpp"
#include "core/dispatch.hpp"
#include "core/matrix.hpp"

namespace fct {

enum class Metric { cosine, inner_product, l2 };

// The product whose larger value means nearer.
inline Product product_of(Metric metric) { return metric == Metric::l2 ? Product::minus_distance : Product::dot; }

// Rows of a row-major float buffer are padded to whole panels, and off powers of two, which would share cache sets.
inline int64_t padded_stride(int64_t cols) {
  return (cols + kPanelWidth - 1) / kPanelWidth * kPanelWidth + kPanelWidth;
}

inline int64_t panels_of(int64_t rows) { return (rows + kPanelWidth - 1) / kPanelWidth; }

// A norm below the smallest normal float counts as zero: such a row has no direction worth keeping.
bool is_zero_norm(double norm);

// source rows [first, first + rows) -> float32 target [rows, cols]; with the cosine metric at unit norm. Rows of zero
// norm become zeros; NaN and Inf pass as NaN.
void load_rows(const KernelTable& kernels, const MatrixView& source, Metric metric, int64_t first, int64_t rows,
               float* target, int64_t target_stride);

// The same rows as panels, [panels_of(rows), cols, 16]. `scratch` is working memory.
void load_panels(const KernelTable& kernels, const MatrixView& source, Metric metric, int64_t first, int64_t rows,
                 AlignedBuffer<float>& scratch, float* panels);

}  // namespace fct
