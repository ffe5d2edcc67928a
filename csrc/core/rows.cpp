#include "core/rows.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>

namespace fct {
namespace {

constexpr int64_t kBatch = 64;

void scale_to_unit(const KernelTable& kernels, float* rows, int64_t count, int64_t cols, int64_t stride) {
  double squares[kBatch];
  const SquaresArgs args{.x = rows, .x_stride = stride, .rows = count, .cols = cols, .squares = squares};
  kernels.squares(&args);
  double factors[kBatch];
  for (int64_t r = 0; r < count; ++r) {
    const double norm = std::sqrt(squares[r]);
    const bool zero = is_zero_norm(norm);
    if (zero) std::fill_n(rows + r * stride, cols, 0.0f);
    factors[r] = zero ? 1.0 : 1.0 / norm;
  }
  const ScaleArgs scale{.x = rows, .x_stride = stride, .rows = count, .cols = cols, .factors = factors};
  kernels.scale(&scale);
}

}  // namespace

bool is_zero_norm(double norm) { return norm < FLT_MIN; }

void load_rows(const KernelTable& kernels, const MatrixView& source, Metric metric, int64_t first, int64_t rows,
               float* target, int64_t target_stride) {
  unsigned char finite[kBatch];
  for (int64_t r = 0; r < rows; r += kBatch) {
    const int64_t count = std::min(kBatch, rows - r);
    float* const out = target + r * target_stride;
    const LoadArgs args{.source = source.row(first + r),
                        .dtype = static_cast<int32_t>(source.dtype),
                        .source_stride = source.row_stride,
                        .rows = count,
                        .cols = source.cols,
                        .target = out,
                        .target_stride = target_stride,
                        .finite = finite};
    kernels.load(&args);
    if (metric == Metric::cosine) scale_to_unit(kernels, out, count, source.cols, target_stride);
  }
}

void load_panels(const KernelTable& kernels, const MatrixView& source, Metric metric, int64_t first, int64_t rows,
                 AlignedBuffer<float>& scratch, float* panels) {
  if (source.dtype == Dtype::f32 && metric != Metric::cosine) {  // nothing to change: packed from where they lie
    const PackArgs args{.x = reinterpret_cast<const float*>(source.row(first)),
                        .x_stride = source.row_stride,
                        .rows = rows,
                        .depth = source.cols,
                        .panels = panels};
    kernels.pack(&args);
    return;
  }
  const int64_t stride = padded_stride(source.cols);
  float* const flat = scratch.reserve(static_cast<std::size_t>(kBatch * stride));
  for (int64_t r = 0; r < rows; r += kBatch) {
    const int64_t count = std::min(kBatch, rows - r);
    load_rows(kernels, source, metric, first + r, count, flat, stride);
    const PackArgs args{
        .x = flat, .x_stride = stride, .rows = count, .depth = source.cols, .panels = panels + r * source.cols};
    kernels.pack(&args);
  }
}

}  // namespace fct
