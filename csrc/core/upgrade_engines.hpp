// How activations are held, and layers computed, in one precision; int8 has a file of its own (core/upgrade_int8.hpp).
#pragma once

#include <cstdint>

#include "core/aligned_buffer.hpp"
#include "core/dispatch.hpp"
#include "core/matrix.hpp"
#include "core/packed_transform.hpp"
#include "core/rows.hpp"

namespace fct {

// Panels [first, first + count) of a layer: columns 16 first and on.
struct PanelRange {
  int64_t first;
  int64_t count;
};

class Fp32Engine {
 public:
  using Element = float;
  static constexpr int64_t kValueElements = 1;                               // elements of a value, at most
  static int64_t input_elements(const PackedLayer& /*layer*/) { return 1; }  // of a value that the layer reads

  explicit Fp32Engine(CpuLevel level) : kernels_(kernels_of(level)) {}

  // Whose sums of squares the output rows are normalised by.
  const KernelTable& squares_kernels() const { return kernels_; }

  void load(const MatrixView& source, int64_t first, int64_t rows, Element* target, int64_t stride,
            unsigned char* finite) const {
    const LoadArgs args{.source = source.row(first),
                        .dtype = static_cast<int32_t>(source.dtype),
                        .source_stride = source.row_stride,
                        .rows = rows,
                        .cols = source.cols,
                        .target = target,
                        .target_stride = stride,
                        .finite = finite};
    kernels_.load(&args);
  }

  // y of the columns of `panels`; y points at the layer's first column.
  void linear(const PackedLayer& layer, PanelRange panels, int64_t rows, const Element* x, int64_t x_stride, float* y,
              int64_t y_stride) const {
    const int64_t column = panels.first * kPanelWidth;
    const TileArgs args{.x = x,
                        .x_stride = x_stride,
                        .rows = rows,
                        .panels = static_cast<const float*>(layer.panels) + column * layer.in_dim,
                        .panel_count = panels.count,
                        .depth = layer.in_dim,
                        .bias = layer.bias + column,
                        .relu = layer.relu,
                        .product = Product::dot,
                        .y = y + column,
                        .y_stride = y_stride};
    kernels_.tile(&args);
  }

 private:
  const KernelTable& kernels_;
};

class Bf16Engine {
 public:
  using Element = uint16_t;
  static constexpr int64_t kValueElements = 1;
  static int64_t input_elements(const PackedLayer& /*layer*/) { return 1; }

  explicit Bf16Engine(CpuLevel level) : wide_(level), kernels_(*bf16_kernels_of(level)) {}

  const KernelTable& squares_kernels() const { return wide_.squares_kernels(); }

  // Through float32, where NaN and Inf are found. One zero is written past the row: tiles read whole pairs.
  void load(const MatrixView& source, int64_t first, int64_t rows, Element* target, int64_t stride,
            unsigned char* finite) const {
    thread_local AlignedBuffer<float> memory;
    const int64_t wide_stride = padded_stride(source.cols);
    float* const wide = memory.reserve(static_cast<std::size_t>(rows * wide_stride));
    wide_.load(source, first, rows, wide, wide_stride, finite);
    const Bf16NarrowArgs args{.x = wide,
                              .x_stride = wide_stride,
                              .rows = rows,
                              .cols = source.cols,
                              .padded_cols = source.cols + 1,
                              .y = target,
                              .y_stride = stride};
    kernels_.narrow(&args);
  }

  void linear(const PackedLayer& layer, PanelRange panels, int64_t rows, const Element* x, int64_t x_stride, Element* y,
              int64_t y_stride) const {
    run(layer, panels, rows, x, x_stride, y + panels.first * kPanelWidth, y_stride, true);
  }
  void linear(const PackedLayer& layer, PanelRange panels, int64_t rows, const Element* x, int64_t x_stride, float* y,
              int64_t y_stride) const {
    run(layer, panels, rows, x, x_stride, y + panels.first * kPanelWidth, y_stride, false);
  }

 private:
  void run(const PackedLayer& layer, PanelRange panels, int64_t rows, const Element* x, int64_t x_stride, void* y,
           int64_t y_stride, bool narrow) const {
    const int64_t column = panels.first * kPanelWidth;
    const int64_t pairs = (layer.in_dim + 1) / 2;
    const Bf16TileArgs args{.x = x,
                            .x_stride = x_stride,
                            .rows = rows,
                            .panels = static_cast<const uint16_t*>(layer.panels) + column * 2 * pairs,
                            .panel_count = panels.count,
                            .pairs = pairs,
                            .bias = layer.bias + column,
                            .relu = layer.relu,
                            .y = y,
                            .y_stride = y_stride,
                            .narrow = narrow};
    kernels_.tile(&args);
  }

  Fp32Engine wide_;
  const Bf16Table& kernels_;
};

}  // namespace fct
