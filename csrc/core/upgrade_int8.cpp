#include "core/upgrade_int8.hpp"

#include <algorithm>
#include <utility>

#include "core/aligned_buffer.hpp"
#include "core/rows.hpp"

namespace fct {
namespace {

// Activations of a block: float32 or bytes, `stride` in elements.
struct Rows {
  unsigned char* data;
  int64_t stride;
  bool bytes;
};

class Int8Block {
 public:
  Int8Block(const PackedTransform& packed, CpuLevel level, BlockRows& rows)
      : packed_(packed), wide_(kernels_of(level)), kernels_(int8_kernels_of(level)), rows_(rows) {}

  void run() {
    thread_local AlignedBuffer<float> memory;  // kept a thread's life
    thread_local AlignedBuffer<float> output;
    const int64_t place = rows_.count() * padded_stride(packed_.widest);
    float* const first = memory.reserve(static_cast<std::size_t>(3 * place));
    unsigned char* const input = reinterpret_cast<unsigned char*>(first);
    unsigned char* ping = reinterpret_cast<unsigned char*>(first + place);
    unsigned char* pong = reinterpret_cast<unsigned char*>(first + 2 * place);

    Rows x{ping, padded_stride(packed_.concat_dim), packed_.trunk.front().scale != nullptr};
    int64_t offset = 0;
    for (const PackedBranch& branch : packed_.branches) {
      // Padding that a branch writes past its last column lies in the next branch, or in the row's own padding.
      run_branch(branch, input, pong, {x.data + offset * (x.bytes ? 1 : 4), x.stride, x.bytes});
      offset += branch.out_dim;
    }
    for (std::size_t i = 0; i + 1 < packed_.trunk.size(); ++i) {
      const Rows y = after(packed_.trunk[i], pong);
      linear(packed_.trunk[i], x, y);
      x = y;
      std::swap(ping, pong);
    }
    const PackedLayer& last = packed_.trunk.back();
    const int64_t stride = padded_stride(last.out_dim);
    float* const y = output.reserve(static_cast<std::size_t>(rows_.count() * stride));
    linear(last, x, {reinterpret_cast<unsigned char*>(y), stride, false});
    // One order of the squares whatever the level: the scalar one.
    rows_.write_out(kScalarKernels, y, stride);
  }

 private:
  static Rows after(const PackedLayer& layer, unsigned char* place) {
    return {place, padded_stride(layer.out_dim), layer.narrow};
  }

  void run_branch(const PackedBranch& branch, unsigned char* input, unsigned char* scratch, const Rows& target) {
    const MatrixView& source = rows_.source(branch);
    if (branch.layers.empty()) {
      load(source, target);
      return;
    }
    Rows x{input, padded_stride(source.cols), false};
    load(source, x);
    // Hidden layers alternate between the scratch and the input's own place, which is free once it was read.
    unsigned char* places[2] = {scratch, input};
    for (std::size_t i = 0; i + 1 < branch.layers.size(); ++i) {
      const Rows y = after(branch.layers[i], places[i % 2]);
      linear(branch.layers[i], x, y);
      x = y;
    }
    linear(branch.layers.back(), x, target);
  }

  void load(const MatrixView& source, const Rows& target) {
    unsigned char finite[kMaxBlockRows];
    const LoadArgs args{.source = source.row(rows_.first()),
                        .dtype = static_cast<int32_t>(source.dtype),
                        .source_stride = source.row_stride,
                        .rows = rows_.count(),
                        .cols = source.cols,
                        .target = reinterpret_cast<float*>(target.data),
                        .target_stride = target.stride,
                        .finite = finite};
    wide_.load(&args);
    rows_.note_finite(finite);
  }

  void linear(const PackedLayer& layer, const Rows& x, const Rows& y) {
    if (layer.scale != nullptr) {
      const Int8TileArgs args{.x = x.data,
                              .x_stride = x.stride,
                              .rows = rows_.count(),
                              .panels = static_cast<const int8_t*>(layer.panels),
                              .panel_count = layer.panel_count(),
                              .quads = (layer.in_dim + 3) / 4,
                              .scale = layer.scale,
                              .bias = layer.bias,
                              .relu = layer.relu,
                              .y = y.data,
                              .y_stride = y.stride,
                              .narrow = layer.narrow};
      kernels_.tile(&args);
    } else if (layer.narrow) {
      thread_local AlignedBuffer<float> memory;
      const int64_t stride = padded_stride(layer.out_dim);
      float* const wide = memory.reserve(static_cast<std::size_t>(rows_.count() * stride));
      linear_wide(layer, x, wide, stride);
      const Int8NarrowArgs args{.x = wide,
                                .x_stride = stride,
                                .rows = rows_.count(),
                                .panel_count = layer.panel_count(),
                                .y = y.data,
                                .y_stride = y.stride};
      kernels_.narrow(&args);
    } else {
      linear_wide(layer, x, reinterpret_cast<float*>(y.data), y.stride);
    }
  }

  void linear_wide(const PackedLayer& layer, const Rows& x, float* y, int64_t y_stride) {
    const TileArgs args{.x = reinterpret_cast<const float*>(x.data),
                        .x_stride = x.stride,
                        .rows = rows_.count(),
                        .panels = static_cast<const float*>(layer.panels),
                        .panel_count = layer.panel_count(),
                        .depth = layer.in_dim,
                        .bias = layer.bias,
                        .relu = layer.relu && !layer.narrow,  // the lower end of narrow is ReLU
                        .product = Product::dot_unfused,
                        .y = y,
                        .y_stride = y_stride};
    wide_.tile(&args);
  }

  const PackedTransform& packed_;
  const KernelTable& wide_;
  const Int8Table& kernels_;
  BlockRows& rows_;
};

}  // namespace

void upgrade_int8_block(const PackedTransform& packed, CpuLevel level, BlockRows& rows) {
  Int8Block(packed, level, rows).run();
}

}  // namespace fct
