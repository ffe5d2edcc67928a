#include "core/upgrade.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "core/aligned_buffer.hpp"
#include "core/error.hpp"
#include "core/half.hpp"
#include "core/rows.hpp"

namespace fct {
namespace {

// Rows of a block: the more, the less often the weights come from L3; the fewer, the nearer their activations stay.
// Measured on a core with 1 MiB of L2 (docs/decisions.md): flat from 1.3 to 3.4 MB of activations, 15 % slower at 0.6
// MB.
constexpr int64_t kActivationBytes = 1700 * 1024;
constexpr int64_t kMinBlockRows = 12;
constexpr int64_t kMaxBlockRows = 192;
constexpr int64_t kRowMultiple = 12;  // whole register tiles at every level

int64_t block_rows(const PackedTransform& packed, int64_t rows, int threads) {
  const int64_t fitting = kActivationBytes / (2 * 4 * padded_stride(packed.widest)) / kRowMultiple * kRowMultiple;
  const int64_t share = (rows + threads - 1) / threads;
  const int64_t whole = std::clamp(fitting, kMinBlockRows, kMaxBlockRows);
  return std::min(whole, std::max<int64_t>(share, 1));
}

// One block of rows on one thread.
class BlockUpgrade {
 public:
  BlockUpgrade(const PackedTransform& packed, const KernelTable& kernels, const UpgradeCall& call, int64_t first,
               int64_t rows)
      : packed_(packed), kernels_(kernels), call_(call), first_(first), rows_(rows) {}

  void run() {
    // Kept a thread's life: fresh pages for each block would cost more than a small block's arithmetic.
    thread_local AlignedBuffer<float> memory;
    const int64_t stride = padded_stride(packed_.widest);
    float* const base = memory.reserve(static_cast<std::size_t>(3 * rows_ * stride));
    float* const input = base;
    float* ping = base + rows_ * stride;
    float* pong = base + 2 * rows_ * stride;

    const int64_t concat_stride = padded_stride(packed_.concat_dim);
    std::memset(call_.status + first_, 0, static_cast<std::size_t>(rows_));
    int64_t offset = 0;
    for (const PackedBranch& branch : packed_.branches) {
      run_branch(branch, input, pong, ping + offset, concat_stride);
      offset += branch.out_dim;
    }
    int64_t in_stride = concat_stride;
    for (const PackedLayer& layer : packed_.trunk) {
      const int64_t out_stride = padded_stride(layer.out_dim);
      linear(layer, ping, in_stride, pong, out_stride);
      std::swap(ping, pong);
      in_stride = out_stride;
    }
    write_out(ping, in_stride);
  }

 private:
  // `target` points at the branch's first column of the concatenation; the padding that a branch writes past its last
  // column lies in the next branch, which is written later, or in the row's own padding.
  void run_branch(const PackedBranch& branch, float* input, float* scratch, float* target, int64_t target_stride) {
    const MatrixView& source = branch.reads_side ? call_.side : call_.old;
    const int64_t input_stride = padded_stride(source.cols);
    if (branch.layers.empty()) {
      load(source, target, target_stride);
      return;
    }
    load(source, input, input_stride);
    const float* x = input;
    int64_t x_stride = input_stride;
    // Hidden layers alternate between the scratch and the input's own place, which is free once it was read.
    float* places[2] = {scratch, input};
    for (std::size_t i = 0; i + 1 < branch.layers.size(); ++i) {
      float* const y = places[i % 2];
      const int64_t y_stride = padded_stride(branch.layers[i].out_dim);
      linear(branch.layers[i], x, x_stride, y, y_stride);
      x = y;
      x_stride = y_stride;
    }
    linear(branch.layers.back(), x, x_stride, target, target_stride);
  }

  void load(const MatrixView& source, float* target, int64_t target_stride) {
    unsigned char finite[kMaxBlockRows];
    const LoadArgs args{.source = source.row(first_),
                        .dtype = static_cast<int32_t>(source.dtype),
                        .source_stride = source.row_stride,
                        .rows = rows_,
                        .cols = source.cols,
                        .target = target,
                        .target_stride = target_stride,
                        .finite = finite};
    kernels_.load(&args);
    for (int64_t r = 0; r < rows_; ++r) {
      if (!finite[r]) set_status(r, RowStatus::nonfinite_input);
    }
  }

  void linear(const PackedLayer& layer, const float* x, int64_t x_stride, float* y, int64_t y_stride) {
    const TileArgs args{.x = x,
                        .x_stride = x_stride,
                        .rows = rows_,
                        .panels = layer.panels,
                        .panel_count = layer.panel_count(),
                        .depth = layer.in_dim,
                        .bias = layer.bias,
                        .relu = layer.relu,
                        .product = Product::dot,
                        .y = y,
                        .y_stride = y_stride};
    kernels_.tile(&args);
  }

  void write_out(const float* y, int64_t y_stride) {
    double squares[kMaxBlockRows];
    const SquaresArgs args{.x = y, .x_stride = y_stride, .rows = rows_, .cols = packed_.new_dim, .squares = squares};
    kernels_.squares(&args);
    for (int64_t r = 0; r < rows_; ++r) {
      const float* const row = y + r * y_stride;
      // Squares of finite floats cannot overflow a double, so this is the test for NaN and Inf in the row, too.
      const double norm = std::sqrt(squares[r]);
      if (!std::isfinite(norm)) set_status(r, RowStatus::overflow);
      if (packed_.normalize && is_zero_norm(norm)) set_status(r, RowStatus::zero_norm);
      const bool ok = status(r) == RowStatus::ok;
      write_row(row, r, !ok ? 0.0 : packed_.normalize ? 1.0 / norm : 1.0);
      if (call_.uncertainty) call_.uncertainty[first_ + r] = ok ? row[packed_.new_dim] : 0.0f;
    }
  }

  void write_row(const float* row, int64_t r, double scale) {
    unsigned char* const target = call_.out.row(first_ + r);
    const auto value = [&](int64_t c) { return scale == 0.0 ? 0.0f : static_cast<float>(row[c] * scale); };
    if (call_.out.dtype == Dtype::f32) {
      float* const out = reinterpret_cast<float*>(target);
      for (int64_t c = 0; c < packed_.new_dim; ++c) out[c] = value(c);
    } else {
      uint16_t* const out = reinterpret_cast<uint16_t*>(target);
      const auto narrow = call_.out.dtype == Dtype::f16 ? half_from_float : bfloat_from_float;
      for (int64_t c = 0; c < packed_.new_dim; ++c) out[c] = narrow(value(c));
    }
  }

  RowStatus status(int64_t r) const { return static_cast<RowStatus>(call_.status[first_ + r]); }
  void set_status(int64_t r, RowStatus value) {
    if (status(r) == RowStatus::ok) call_.status[first_ + r] = static_cast<unsigned char>(value);
  }

  const PackedTransform& packed_;
  const KernelTable& kernels_;
  const UpgradeCall& call_;
  const int64_t first_;
  const int64_t rows_;
};

void check(const PackedTransform& packed, const UpgradeCall& call) {
  const auto want = [](const char* name, int64_t rows, int64_t cols, int64_t want_rows, int64_t want_cols) {
    if (rows == want_rows && cols == want_cols) return;
    throw ShapeError(std::string(name) + " is [" + std::to_string(rows) + ", " + std::to_string(cols) +
                     "], expected [" + std::to_string(want_rows) + ", " + std::to_string(want_cols) + "]");
  };
  want("old", call.old.rows, call.old.cols, call.old.rows, packed.old_dim);
  if (packed.side_dim > 0) want("side", call.side.rows, call.side.cols, call.old.rows, packed.side_dim);
  want("out", call.out.rows, call.out.cols, call.old.rows, packed.new_dim);
  if (call.uncertainty && !packed.uncertainty) throw ShapeError("this transform has no uncertainty head");
}

}  // namespace

void upgrade(const PackedTransform& packed, CpuLevel level, const UpgradeCall& call, const StopFn& stop) {
  check(packed, call);
  const KernelTable& kernels = kernels_of(level);
  const int threads = std::max(1, call.threads);
  const int64_t step = block_rows(packed, call.old.rows, threads);
  const int64_t blocks = (call.old.rows + step - 1) / step;
  parallel_for(
      blocks, threads,
      [&](int64_t block, int) {
        const int64_t first = block * step;
        BlockUpgrade(packed, kernels, call, first, std::min(step, call.old.rows - first)).run();
      },
      stop);
}

}  // namespace fct
