// A layer of int8 that reads float32: products and sums rounded each and in one order, the CPU's, so that the bytes
// that follow are the same everywhere. Sums are cut after every 128 true columns (kDepthRun of cpu/kernel_table.hpp).
// Padding does not count, so the cuts are a list of places in the padded depth; its zeros change no sum.
#pragma once

#include "cuda/simt/simt.hpp"
#include "cuda/upgrade/requantise.hpp"
#include "cuda/upgrade/stage.hpp"

namespace fct::cuda {

// Output: uint8_t, or float.
template <typename Output, typename T>
class OrderedLayer {
 public:
  FCT_DEVICE OrderedLayer(const LayerArgs& args, unsigned char* shared)
      : args_(args), shared_(shared), place_(tile_place<T>(args)), next_cut_(args.cuts), cut_(*args.cuts) {}

  FCT_DEVICE void run() {
    StageRing<float, T> ring(args_, shared_, place_.first_row, place_.first_column, all_steps<float>(args_));
    ring.start();
    for (int step = 0; step < ring.steps(); ++step) {
      ring.advance(step);
      multiply_step(ring.x_stage(step), ring.weight_stage(step), step * (kStepChunks * kChunkValues));
    }
    ring.finish();
    stage_outputs();
    sync_block();
    store_tile<Output, T>(args_, place_, shared_);
  }

 private:
  // Threads lie as in layer_ffma.hpp: (i, j) has rows i, i + kGridRows, ... and columns alike.
  static constexpr int kGridColumns = 16;
  static constexpr int kGridRows = T::kThreads / kGridColumns;
  static constexpr int kRows = T::kRows / kGridRows;
  static constexpr int kColumns = T::kColumns / kGridColumns;
  static constexpr int kChunkValues = 4;
  static_assert(T::kRows % kGridRows == 0 && T::kColumns % kGridColumns == 0);

  struct alignas(16) Quad {
    float values[kChunkValues];
  };

  FCT_DEVICE int row(int m) const { return thread_index() / kGridColumns + m * kGridRows; }
  FCT_DEVICE int column(int n) const { return thread_index() % kGridColumns + n * kGridColumns; }

  // Cuts are at least 128 apart, so a chunk has one at most.
  FCT_DEVICE void multiply_step(const unsigned char* x, const unsigned char* weight, int depth) {
#if defined(__CUDACC__)
#pragma unroll 1
#endif
    for (int chunk = 0; chunk < kStepChunks; ++chunk) {
      const int cut = cut_ - (depth + chunk * kChunkValues);
      if (cut < kChunkValues) {
        multiply_chunk<true>(x, weight, chunk, cut);
        cut_ = *++next_cut_;
      } else {
        multiply_chunk<false>(x, weight, chunk, cut);
      }
    }
  }

  template <bool kCut>
  FCT_DEVICE void multiply_chunk(const unsigned char* x, const unsigned char* weight, int chunk, int cut) {
    Quad a[kRows];
    FCT_UNROLL
    for (int m = 0; m < kRows; ++m) a[m] = *reinterpret_cast<const Quad*>(x + chunk_at(row(m), chunk));
    FCT_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      const Quad b = *reinterpret_cast<const Quad*>(weight + chunk_at(column(n), chunk));
      FCT_UNROLL
      for (int m = 0; m < kRows; ++m) {
        FCT_UNROLL
        for (int i = 0; i < kChunkValues; ++i) {
          if (kCut && i == cut) close_sum(m, n);
          open_[m][n] = add(open_[m][n], multiply(a[m].values[i], b.values[i]));
        }
      }
    }
  }

  // No sum is -0, so adding to the first zero changes nothing.
  FCT_DEVICE void close_sum(int m, int n) {
    sums_[m][n] = add(sums_[m][n], open_[m][n]);
    open_[m][n] = 0.0f;
  }

  FCT_DEVICE void stage_outputs() {
    FCT_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      const int at = place_.first_column + column(n);
      const float bias = at < args_.columns ? args_.bias[at] : 0.0f;
      FCT_UNROLL
      for (int m = 0; m < kRows; ++m) {
        close_sum(m, n);
        *reinterpret_cast<Output*>(shared_ + row(m) * T::template kOutputStride<Output> +
                                   column(n) * static_cast<int>(sizeof(Output))) =
            requantised<Output>(add(sums_[m][n], bias), args_.relu != 0);
      }
    }
  }

  const LayerArgs& args_;
  unsigned char* const shared_;
  const TilePlace place_;
  const int32_t* next_cut_;
  int cut_;
  float open_[kRows][kColumns] = {};
  float sums_[kRows][kColumns] = {};
};

template <typename Output, typename T>
FCT_DEVICE void layer_ordered(const LayerArgs& args, unsigned char* shared) {
  OrderedLayer<Output, T>(args, shared).run();
}

}  // namespace fct::cuda
