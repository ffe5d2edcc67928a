// One block of rows on its way through h, as steps: loads, layers, and the writing of the output rows. One thread may
// run them all, or several share the panels of a step (core/upgrade.cpp); the bits are the same.
#pragma once

#include <utility>
#include <vector>

#include "core/upgrade_engines.hpp"
#include "core/upgrade_rows.hpp"

namespace fct {

template <typename Engine>
class BlockUpgrade {
 public:
  using Element = typename Engine::Element;

  // Activations are kept a thread's life, by the thread that makes this: fresh pages for each block would cost more
  // than a small block's arithmetic. So a thread has one BlockUpgrade at a time.
  BlockUpgrade(const PackedTransform& packed, CpuLevel level, const UpgradeCall& call, int64_t first, int64_t rows)
      : packed_(packed), engine_(level), block_(packed, call, first, rows), rows_(rows) {
    thread_local AlignedBuffer<Element> memory;
    thread_local AlignedBuffer<float> output;
    const int64_t size = rows_ * padded_stride(packed_.widest) * Engine::kValueElements;
    output_stride_ = padded_stride(packed_.trunk.back().out_dim);
    output_ = output.reserve(static_cast<std::size_t>(rows_ * output_stride_));
    lay_out(memory.reserve(static_cast<std::size_t>(3 * size)), size);
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
        return block_.write_out(engine_.squares_kernels(), output_, output_stride_);
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
    int64_t x_stride = 0;  // in values
    Element* y = nullptr;
    int64_t y_stride = 0;
  };

  // memory [3, size]: the branches' input, and the two sides between which the trunk goes to and fro.
  void lay_out(Element* memory, int64_t size) {
    Element* const input = memory;
    Element* ping = input + size;
    Element* pong = ping + size;
    const int64_t concat_stride = padded_stride(packed_.concat_dim);
    const int64_t elements = Engine::input_elements(packed_.trunk.front());
    int64_t offset = 0;
    for (const PackedBranch& branch : packed_.branches) {
      lay_out_branch(branch, input, pong, ping + offset * elements, concat_stride);
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
    const MatrixView& source = block_.source(branch);
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
    engine_.load(source, block_.first(), rows_, target, target_stride, finite);
    block_.note_finite(finite);
  }

  const PackedTransform& packed_;
  const Engine engine_;
  BlockRows block_;
  const int64_t rows_;
  std::vector<Step> steps_;
  float* output_ = nullptr;
  int64_t output_stride_ = 0;
};

}  // namespace fct
