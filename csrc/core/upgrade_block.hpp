// One block of rows on its way through h, as steps: loads, layers, and the writing of the output rows. One thread may
// run them all, or several share the panels of a step (core/upgrade.cpp); the bits are the same.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "core/half.hpp"
#include "core/upgrade.hpp"
#include "core/upgrade_engines.hpp"

namespace fct {

constexpr int64_t kMaxBlockRows = 192;

template <typename Engine>
class BlockUpgrade {
 public:
  using Element = typename Engine::Element;

  // Activations are kept a thread's life, by the thread that makes this: fresh pages for each block would cost more
  // than a small block's arithmetic. So a thread has one BlockUpgrade at a time.
  BlockUpgrade(const PackedTransform& packed, CpuLevel level, const UpgradeCall& call, int64_t first, int64_t rows)
      : packed_(packed), kernels_(kernels_of(level)), engine_(level), call_(call), first_(first), rows_(rows) {
    thread_local AlignedBuffer<Element> memory;
    thread_local AlignedBuffer<float> output;
    const int64_t stride = padded_stride(packed_.widest);
    output_stride_ = padded_stride(packed_.trunk.back().out_dim);
    output_ = output.reserve(static_cast<std::size_t>(rows_ * output_stride_));
    std::memset(call_.status + first_, 0, static_cast<std::size_t>(rows_));
    lay_out(memory.reserve(static_cast<std::size_t>(3 * rows_ * stride)), rows_ * stride);
  }

  int64_t step_count() const { return static_cast<int64_t>(steps_.size()); }

  // The layer that a step computes, whose panels may be shared out; null for a step that is run whole.
  const PackedLayer* layer_of(int64_t step) const { return steps_[static_cast<std::size_t>(step)].layer; }

  // Steps in order. `panels` counts for layers alone.
  void run(int64_t step, PanelRange panels) {
    const Step& s = steps_[static_cast<std::size_t>(step)];
    switch (s.kind) {
      case Kind::load:
        return load(*s.source, s.y, s.y_stride);
      case Kind::clear_pad:
        for (int64_t r = 0; r < rows_; ++r) s.y[r * s.y_stride] = Element{};
        return;
      case Kind::hidden:
        return engine_.linear(*s.layer, panels, rows_, s.x, s.x_stride, s.y, s.y_stride);
      case Kind::last:
        return engine_.linear(*s.layer, panels, rows_, s.x, s.x_stride, output_, output_stride_);
      case Kind::write:
        return write_out();
    }
  }

  void run_all() {
    for (int64_t step = 0; step < step_count(); ++step) {
      run(step, {0, layer_of(step) ? layer_of(step)->panel_count() : 0});
    }
  }

 private:
  enum class Kind { load, clear_pad, hidden, last, write };
  struct Step {
    Kind kind;
    const MatrixView* source = nullptr;
    const PackedLayer* layer = nullptr;
    const Element* x = nullptr;
    int64_t x_stride = 0;
    Element* y = nullptr;
    int64_t y_stride = 0;
  };

  // memory [3, size]: the branches' input, and the two sides between which the trunk goes to and fro.
  void lay_out(Element* memory, int64_t size) {
    Element* const input = memory;
    Element* ping = input + size;
    Element* pong = ping + size;
    const int64_t concat_stride = padded_stride(packed_.concat_dim);
    int64_t offset = 0;
    for (const PackedBranch& branch : packed_.branches) {
      lay_out_branch(branch, input, pong, ping + offset, concat_stride);
      offset += branch.out_dim;
    }
    // Tiles of 16-bit pairs read one column past an odd width.
    if (sizeof(Element) == 2 && packed_.concat_dim % 2 != 0) {
      steps_.push_back({.kind = Kind::clear_pad, .y = ping + packed_.concat_dim, .y_stride = concat_stride});
    }
    int64_t x_stride = concat_stride;
    for (std::size_t i = 0; i + 1 < packed_.trunk.size(); ++i) {
      const int64_t y_stride = padded_stride(packed_.trunk[i].out_dim);
      add_hidden(packed_.trunk[i], ping, x_stride, pong, y_stride);
      std::swap(ping, pong);
      x_stride = y_stride;
    }
    steps_.push_back({.kind = Kind::last, .layer = &packed_.trunk.back(), .x = ping, .x_stride = x_stride});
    steps_.push_back({.kind = Kind::write});
  }

  // `target` points at the branch's first column of the concatenation; the padding that a branch writes past its last
  // column lies in the next branch, which is written later, or in the row's own padding.
  void lay_out_branch(const PackedBranch& branch, Element* input, Element* scratch, Element* target,
                      int64_t target_stride) {
    const MatrixView& source = branch.reads_side ? call_.side : call_.old;
    if (branch.layers.empty()) {
      steps_.push_back({.kind = Kind::load, .source = &source, .y = target, .y_stride = target_stride});
      return;
    }
    int64_t x_stride = padded_stride(source.cols);
    steps_.push_back({.kind = Kind::load, .source = &source, .y = input, .y_stride = x_stride});
    const Element* x = input;
    // Hidden layers alternate between the scratch and the input's own place, which is free once it was read.
    Element* places[2] = {scratch, input};
    for (std::size_t i = 0; i + 1 < branch.layers.size(); ++i) {
      Element* const y = places[i % 2];
      const int64_t y_stride = padded_stride(branch.layers[i].out_dim);
      add_hidden(branch.layers[i], x, x_stride, y, y_stride);
      x = y;
      x_stride = y_stride;
    }
    add_hidden(branch.layers.back(), x, x_stride, target, target_stride);
  }

  void add_hidden(const PackedLayer& layer, const Element* x, int64_t x_stride, Element* y, int64_t y_stride) {
    steps_.push_back(
        {.kind = Kind::hidden, .layer = &layer, .x = x, .x_stride = x_stride, .y = y, .y_stride = y_stride});
  }

  void load(const MatrixView& source, Element* target, int64_t target_stride) {
    unsigned char finite[kMaxBlockRows];
    engine_.load(source, first_, rows_, target, target_stride, finite);
    for (int64_t r = 0; r < rows_; ++r) {
      if (!finite[r]) set_status(r, RowStatus::nonfinite_input);
    }
  }

  void write_out() {
    double squares[kMaxBlockRows];
    const SquaresArgs args{
        .x = output_, .x_stride = output_stride_, .rows = rows_, .cols = packed_.new_dim, .squares = squares};
    kernels_.squares(&args);
    for (int64_t r = 0; r < rows_; ++r) {
      const float* const row = output_ + r * output_stride_;
      // Squares of finite floats cannot overflow a double, so this is the test for NaN and Inf in the row, too.
      const double norm = std::sqrt(squares[r]);
      if (!std::isfinite(norm) || !fits_output(row)) set_status(r, RowStatus::overflow);
      if (packed_.uncertainty && !std::isfinite(row[packed_.new_dim])) set_status(r, RowStatus::overflow);
      if (packed_.normalize && is_zero_norm(norm)) set_status(r, RowStatus::zero_norm);
      const bool ok = status(r) == RowStatus::ok;
      write_row(row, r, !ok ? 0.0 : packed_.normalize ? 1.0 / norm : 1.0);
      if (call_.uncertainty) call_.uncertainty[first_ + r] = ok ? row[packed_.new_dim] : 0.0f;
    }
  }

  // Only rows that keep their scale can pass the largest float16 or bfloat16.
  bool fits_output(const float* row) const {
    if (packed_.normalize || call_.out.dtype == Dtype::f32) return true;
    const bool half = call_.out.dtype == Dtype::f16;
    return std::all_of(row, row + packed_.new_dim, [half](float x) {
      return std::isfinite(half ? float_from_half(half_from_float(x)) : float_from_bfloat(bfloat_from_float(x)));
    });
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
  const Engine engine_;
  const UpgradeCall& call_;
  const int64_t first_;
  const int64_t rows_;
  std::vector<Step> steps_;
  float* output_ = nullptr;
  int64_t output_stride_ = 0;
};

}  // namespace fct
