#include "core/upgrade.hpp"

#include <algorithm>
#include <string>

#include "core/aligned_buffer.hpp"
#include "core/error.hpp"
#include "core/rows.hpp"
#include "core/upgrade_int8.hpp"
#include "core/upgrade_rows.hpp"

namespace fct {
namespace {

// Rows of a block: the more, the less often the weights come from L3; the fewer, the nearer their activations stay.
// Measured on a core with 1 MiB of L2 (docs/decisions.md): flat from 1.3 to 3.4 MB of activations, 15 % slower at 0.6
// MB.
constexpr int64_t kActivationBytes = 1700 * 1024;
constexpr int64_t kMinBlockRows = 12;
constexpr int64_t kRowMultiple = 12;  // whole register tiles at every level

int64_t block_rows(const PackedTransform& packed, int64_t element_bytes, int64_t rows, int threads) {
  const int64_t row_bytes = 2 * element_bytes * padded_stride(packed.widest);
  const int64_t fitting = kActivationBytes / row_bytes / kRowMultiple * kRowMultiple;
  const int64_t share = (rows + threads - 1) / threads;
  return std::min(std::clamp(fitting, kMinBlockRows, kMaxBlockRows), std::max<int64_t>(share, 1));
}

// How activations are held and layers computed in one precision.
class Fp32Engine {
 public:
  using Element = float;
  explicit Fp32Engine(CpuLevel level) : kernels_(kernels_of(level)) {}

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

  void linear(const PackedLayer& layer, int64_t rows, const Element* x, int64_t x_stride, float* y,
              int64_t y_stride) const {
    const TileArgs args{.x = x,
                        .x_stride = x_stride,
                        .rows = rows,
                        .panels = static_cast<const float*>(layer.panels),
                        .panel_count = layer.panel_count(),
                        .depth = layer.in_dim,
                        .bias = layer.bias,
                        .relu = layer.relu,
                        .product = Product::dot,
                        .y = y,
                        .y_stride = y_stride};
    kernels_.tile(&args);
  }

 private:
  const KernelTable& kernels_;
};

class Bf16Engine {
 public:
  using Element = uint16_t;
  explicit Bf16Engine(CpuLevel level) : wide_(level), kernels_(*bf16_kernels_of(level)) {}

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

  void linear(const PackedLayer& layer, int64_t rows, const Element* x, int64_t x_stride, Element* y,
              int64_t y_stride) const {
    run(layer, rows, x, x_stride, y, y_stride, true);
  }
  void linear(const PackedLayer& layer, int64_t rows, const Element* x, int64_t x_stride, float* y,
              int64_t y_stride) const {
    run(layer, rows, x, x_stride, y, y_stride, false);
  }

 private:
  void run(const PackedLayer& layer, int64_t rows, const Element* x, int64_t x_stride, void* y, int64_t y_stride,
           bool narrow) const {
    const Bf16TileArgs args{.x = x,
                            .x_stride = x_stride,
                            .rows = rows,
                            .panels = static_cast<const uint16_t*>(layer.panels),
                            .panel_count = layer.panel_count(),
                            .pairs = (layer.in_dim + 1) / 2,
                            .bias = layer.bias,
                            .relu = layer.relu,
                            .y = y,
                            .y_stride = y_stride,
                            .narrow = narrow};
    kernels_.tile(&args);
  }

  Fp32Engine wide_;
  const Bf16Table& kernels_;
};

// One block of rows on one thread.
template <typename Engine>
class BlockUpgrade {
 public:
  using Element = typename Engine::Element;

  BlockUpgrade(const PackedTransform& packed, CpuLevel level, BlockRows& block)
      : packed_(packed), kernels_(kernels_of(level)), engine_(level), block_(block), rows_(block.count()) {}

  void run() {
    // Kept a thread's life: fresh pages for each block would cost more than a small block's arithmetic.
    thread_local AlignedBuffer<Element> memory;
    thread_local AlignedBuffer<float> output;
    const int64_t stride = padded_stride(packed_.widest);
    Element* const input = memory.reserve(static_cast<std::size_t>(3 * rows_ * stride));
    Element* ping = input + rows_ * stride;
    Element* pong = ping + rows_ * stride;

    const int64_t concat_stride = padded_stride(packed_.concat_dim);
    int64_t offset = 0;
    for (const PackedBranch& branch : packed_.branches) {
      run_branch(branch, input, pong, ping + offset, concat_stride);
      offset += branch.out_dim;
    }
    // Tiles of 16-bit pairs read one column past an odd width.
    for (int64_t r = 0; r < rows_; ++r) ping[r * concat_stride + packed_.concat_dim] = Element{};
    int64_t in_stride = concat_stride;
    for (std::size_t i = 0; i + 1 < packed_.trunk.size(); ++i) {
      const int64_t out_stride = padded_stride(packed_.trunk[i].out_dim);
      engine_.linear(packed_.trunk[i], rows_, ping, in_stride, pong, out_stride);
      std::swap(ping, pong);
      in_stride = out_stride;
    }
    const PackedLayer& last = packed_.trunk.back();
    const int64_t out_stride = padded_stride(last.out_dim);
    float* const y = output.reserve(static_cast<std::size_t>(rows_ * out_stride));
    engine_.linear(last, rows_, ping, in_stride, y, out_stride);
    block_.write_out(kernels_, y, out_stride);
  }

 private:
  // `target` points at the branch's first column of the concatenation; the padding that a branch writes past its last
  // column lies in the next branch, which is written later, or in the row's own padding.
  void run_branch(const PackedBranch& branch, Element* input, Element* scratch, Element* target,
                  int64_t target_stride) {
    const MatrixView& source = block_.source(branch);
    if (branch.layers.empty()) {
      load(source, target, target_stride);
      return;
    }
    int64_t x_stride = padded_stride(source.cols);
    load(source, input, x_stride);
    const Element* x = input;
    // Hidden layers alternate between the scratch and the input's own place, which is free once it was read.
    Element* places[2] = {scratch, input};
    for (std::size_t i = 0; i + 1 < branch.layers.size(); ++i) {
      Element* const y = places[i % 2];
      const int64_t y_stride = padded_stride(branch.layers[i].out_dim);
      engine_.linear(branch.layers[i], rows_, x, x_stride, y, y_stride);
      x = y;
      x_stride = y_stride;
    }
    engine_.linear(branch.layers.back(), rows_, x, x_stride, target, target_stride);
  }

  void load(const MatrixView& source, Element* target, int64_t target_stride) {
    unsigned char finite[kMaxBlockRows];
    engine_.load(source, block_.first(), rows_, target, target_stride, finite);
    block_.note_finite(finite);
  }

  const PackedTransform& packed_;
  const KernelTable& kernels_;
  const Engine engine_;
  BlockRows& block_;
  const int64_t rows_;
};

void check(const PackedTransform& packed, CpuLevel level, const UpgradeCall& call) {
  const auto want = [](const char* name, int64_t rows, int64_t cols, int64_t want_rows, int64_t want_cols) {
    if (rows == want_rows && cols == want_cols) return;
    throw ShapeError(std::string(name) + " is [" + std::to_string(rows) + ", " + std::to_string(cols) +
                     "], expected [" + std::to_string(want_rows) + ", " + std::to_string(want_cols) + "]");
  };
  want("old", call.old.rows, call.old.cols, call.old.rows, packed.old_dim);
  if (packed.side_dim > 0) want("side", call.side.rows, call.side.cols, call.old.rows, packed.side_dim);
  want("out", call.out.rows, call.out.cols, call.old.rows, packed.new_dim);
  if (call.uncertainty && !packed.uncertainty) throw ShapeError("this transform has no uncertainty head");
  if (packed.precision == Precision::bf16 && bf16_kernels_of(level) == nullptr) {
    throw DeviceError("precision 'bf16' needs AVX-512 BF16, which level '" + std::string(name_of(level)) +
                      "' of this machine lacks; use 'fp32'");
  }
}

// run(block) for each block of rows. `element_bytes`: of an activation.
template <typename Run>
void upgrade_blocks(const PackedTransform& packed, int64_t element_bytes, const UpgradeCall& call, const StopFn& stop,
                    Run run) {
  const int threads = std::max(1, call.threads);
  const int64_t step = block_rows(packed, element_bytes, call.old.rows, threads);
  const int64_t blocks = (call.old.rows + step - 1) / step;
  parallel_for(
      blocks, threads,
      [&](int64_t block, int) {
        const int64_t first = block * step;
        BlockRows rows(packed, call, first, std::min(step, call.old.rows - first));
        run(rows);
      },
      stop);
}

}  // namespace

void upgrade(const PackedTransform& packed, CpuLevel level, const UpgradeCall& call, const StopFn& stop) {
  check(packed, level, call);
  switch (packed.precision) {
    case Precision::fp32:
      return upgrade_blocks(packed, 4, call, stop,
                            [&](BlockRows& rows) { BlockUpgrade<Fp32Engine>(packed, level, rows).run(); });
    case Precision::bf16:
      return upgrade_blocks(packed, 2, call, stop,
                            [&](BlockRows& rows) { BlockUpgrade<Bf16Engine>(packed, level, rows).run(); });
    case Precision::int8:
      return upgrade_blocks(packed, 1, call, stop, [&](BlockRows& rows) { upgrade_int8_block(packed, level, rows); });
  }
}

}  // namespace fct
