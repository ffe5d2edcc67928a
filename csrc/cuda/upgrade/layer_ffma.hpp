// A layer in float32 by FFMA: no TF32, and sums cut along the depth so that wide layers keep the bound of 2e-6.
#pragma once

#include "cuda/simt/simt.hpp"
#include "cuda/upgrade/epilogue.hpp"
#include "cuda/upgrade/stage.hpp"

namespace fct::cuda {

template <typename T>
class FfmaLayer {
 public:
  FCT_DEVICE FfmaLayer(const LayerArgs& args, unsigned char* shared)
      : args_(args), shared_(shared), place_(tile_place<T>(args)) {}

  FCT_DEVICE void run() {
    StageRing<float, T> ring(args_, shared_, place_.first_row, place_.first_column);
    ring.start();
    for (int step = 0; step < ring.steps(); ++step) {
      ring.advance(step);
      multiply(ring.x_stage(step), ring.weight_stage(step));
      if (step % kStepsOfASum == kStepsOfASum - 1) close_sums();
    }
    close_sums();
    ring.finish();
    stage_outputs();
    sync_block();
    store_tile<float, T>(args_, place_, shared_);
  }

 private:
  // Threads lie in a grid of kGridRows x kGridColumns; thread (i, j) has rows i, i + kGridRows, ... and columns alike,
  // so that the eight threads of a load phase read neighbouring rows, which the swizzle puts into different banks.
  static constexpr int kGridColumns = 16;
  static constexpr int kGridRows = T::kThreads / kGridColumns;
  static constexpr int kRows = T::kRows / kGridRows;
  static constexpr int kColumns = T::kColumns / kGridColumns;
  static constexpr int kStepsOfASum = 2;  // 64 products
  static_assert(T::kRows % kGridRows == 0 && T::kColumns % kGridColumns == 0);

  struct alignas(16) Quad {
    float values[4];
  };

  FCT_DEVICE int row(int m) const { return thread_index() / kGridColumns + m * kGridRows; }
  FCT_DEVICE int column(int n) const { return thread_index() % kGridColumns + n * kGridColumns; }

  FCT_DEVICE void multiply(const unsigned char* x, const unsigned char* weight) {
#if defined(__CUDACC__)
#pragma unroll 1
#endif
    for (int chunk = 0; chunk < kStepChunks; ++chunk) {
      Quad a[kRows];
      FCT_UNROLL
      for (int m = 0; m < kRows; ++m) a[m] = *reinterpret_cast<const Quad*>(x + chunk_at(row(m), chunk));
      FCT_UNROLL
      for (int n = 0; n < kColumns; ++n) {
        const Quad b = *reinterpret_cast<const Quad*>(weight + chunk_at(column(n), chunk));
        FCT_UNROLL
        for (int m = 0; m < kRows; ++m) {
          FCT_UNROLL
          for (int i = 0; i < 4; ++i) open_[m][n] = multiply_add(a[m].values[i], b.values[i], open_[m][n]);
        }
      }
    }
  }

  FCT_DEVICE void close_sums() {
    FCT_UNROLL
    for (int m = 0; m < kRows; ++m) {
      FCT_UNROLL
      for (int n = 0; n < kColumns; ++n) {
        sums_[m][n] += open_[m][n];
        open_[m][n] = 0.0f;
      }
    }
  }

  FCT_DEVICE void stage_outputs() {
    FCT_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      const int at = place_.first_column + column(n);
      const float bias = at < args_.columns ? args_.bias[at] : 0.0f;
      FCT_UNROLL
      for (int m = 0; m < kRows; ++m) {
        *reinterpret_cast<float*>(shared_ + row(m) * T::template kOutputStride<float> + column(n) * 4) =
            activate(sums_[m][n], bias, args_.relu != 0);
      }
    }
  }

  const LayerArgs& args_;
  unsigned char* const shared_;
  const TilePlace place_;
  float open_[kRows][kColumns] = {};
  float sums_[kRows][kColumns] = {};
};

template <typename T>
FCT_DEVICE void layer_ffma(const LayerArgs& args, unsigned char* shared) {
  FfmaLayer<T>(args, shared).run();
}

}  // namespace fct::cuda
