// How activations are held, and layers computed, in int8: bytes where layers can read them, float32 at both ends.
#pragma once

#include "core/upgrade_engines.hpp"

namespace fct {

// The same bits at every level (the definition: cpu/kernel_table.hpp).
class Int8Engine {
 public:
  using Element = unsigned char;  // four of them where a value is float32
  static constexpr int64_t kValueElements = 4;
  static int64_t input_elements(const PackedLayer& layer) { return layer.scale != nullptr ? 1 : 4; }

  explicit Int8Engine(CpuLevel level)
      : wide_(level), wide_kernels_(kernels_of(level)), kernels_(int8_kernels_of(level)) {}

  // One order of the squares whatever the level: the scalar one.
  const KernelTable& squares_kernels() const { return kScalarKernels; }

  // To float32.
  void load(const MatrixView& source, int64_t first, int64_t rows, Element* target, int64_t stride,
            unsigned char* finite) const {
    wide_.load(source, first, rows, reinterpret_cast<float*>(target), stride, finite);
  }

  void linear(const PackedLayer& layer, PanelRange panels, int64_t rows, const Element* x, int64_t x_stride, Element* y,
              int64_t y_stride) const {
    if (layer.scale != nullptr) {
      from_bytes(layer, panels, rows, x, x_stride, y, y_stride);
    } else if (layer.narrow) {
      thread_local AlignedBuffer<float> memory;
      const int64_t stride = padded_stride(panels.count * kPanelWidth);
      float* const wide = memory.reserve(static_cast<std::size_t>(rows * stride));
      from_floats(layer, panels, rows, x, x_stride, wide, stride);
      const Int8NarrowArgs args{.x = wide,
                                .x_stride = stride,
                                .rows = rows,
                                .panel_count = panels.count,
                                .y = y + panels.first * kPanelWidth,
                                .y_stride = y_stride};
      kernels_.narrow(&args);
    } else {
      from_floats(layer, panels, rows, x, x_stride, reinterpret_cast<float*>(y) + panels.first * kPanelWidth, y_stride);
    }
  }
  void linear(const PackedLayer& layer, PanelRange panels, int64_t rows, const Element* x, int64_t x_stride, float* y,
              int64_t y_stride) const {
    linear(layer, panels, rows, x, x_stride, reinterpret_cast<Element*>(y), y_stride);
  }

 private:
  void from_bytes(const PackedLayer& layer, PanelRange panels, int64_t rows, const Element* x, int64_t x_stride,
                  Element* y, int64_t y_stride) const {
    const int64_t column = panels.first * kPanelWidth;
    const int64_t quads = (layer.in_dim + 3) / 4;
    const Int8TileArgs args{.x = x,
                            .x_stride = x_stride,
                            .rows = rows,
                            .panels = static_cast<const int8_t*>(layer.panels) + column * 4 * quads,
                            .panel_count = panels.count,
                            .quads = quads,
                            .scale = layer.scale + column,
                            .bias = layer.bias + column,
                            .relu = layer.relu,
                            .y = y + column * (layer.narrow ? 1 : 4),
                            .y_stride = y_stride,
                            .narrow = layer.narrow};
    kernels_.tile(&args);
  }

  // y points at the first column of `panels`.
  void from_floats(const PackedLayer& layer, PanelRange panels, int64_t rows, const Element* x, int64_t x_stride,
                   float* y, int64_t y_stride) const {
    const int64_t column = panels.first * kPanelWidth;
    const TileArgs args{.x = reinterpret_cast<const float*>(x),
                        .x_stride = x_stride,
                        .rows = rows,
                        .panels = static_cast<const float*>(layer.panels) + column * layer.in_dim,
                        .panel_count = panels.count,
                        .depth = layer.in_dim,
                        .bias = layer.bias + column,
                        .relu = layer.relu && !layer.narrow,  // the lower end of narrow is ReLU
                        .product = Product::dot_unfused,
                        .y = y,
                        .y_stride = y_stride};
    wide_kernels_.tile(&args);
  }

  const Fp32Engine wide_;
  const KernelTable& wide_kernels_;
  const Int8Table& kernels_;
};

}  // namespace fct
