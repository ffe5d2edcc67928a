// A layer in float32 by FFMA: no TF32, and sums cut along the depth so that wide layers keep the bound of 2e-6.
#pragma once

#include "cuda/simt/simt.hpp"
#include "cuda/upgrade/epilogue.hpp"
#include "cuda/upgrade/split.hpp"
#include "cuda/upgrade/stage.hpp"

namespace fct::cuda {

template <typename T>
class FfmaLayer {
 public:
  FCT_DEVICE FfmaLayer(const LayerArgs& args, unsigned char* shared)
      : args_(args), shared_(shared), place_(tile_place<T>(args)) {
    if constexpr (T::kSplits) {
      const int64_t tile = static_cast<uint32_t>(block_index()) / static_cast<uint32_t>(args.splits);
      tile_parts_ = args.parts + tile * sums_of_depth<float>(args) * (kRows * kColumns * T::kThreads);
    }
  }

  FCT_DEVICE void run() {
    const Steps taken = steps_of<float, T>(args_);
    StageRing<float, T> ring(args_, shared_, place_.first_row, place_.first_column, taken);
    ring.start();
    for (int step = 0; step < ring.steps(); ++step) {
      ring.advance(step);
      multiply(ring.x_stage(step), ring.weight_stage(step));
      if (step % kStepsOfASum == kStepsOfASum - 1 || step + 1 == ring.steps()) {
        close_sums((taken.first + step) / kStepsOfASum);
      }
    }
    ring.finish();
    if constexpr (T::kSplits) {
      if (args_.splits > 1 && !add_parts()) return;
    }
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
  static constexpr int kStepsOfASum = kSplitSteps;  // 64 products; no split cuts one
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

  // Ends open sum `index` of the whole depth.
  FCT_DEVICE void close_sums(int index) {
    if constexpr (T::kSplits) {
      if (args_.splits > 1) {
        float* const target = parts(index);
        for_each_sum([&](int m, int n) { target[(m * kColumns + n) * T::kThreads] = open_[m][n]; });
      }
    }
    FCT_UNROLL
    for (int m = 0; m < kRows; ++m) {
      FCT_UNROLL
      for (int n = 0; n < kColumns; ++n) {
        sums_[m][n] += open_[m][n];
        open_[m][n] = 0.0f;
      }
    }
  }

  // Where sum `index` of 64 products waits for the last block. Not the sum of a block's whole share: added one by one
  // they are the sums of an unshared tile, bit for bit.
  FCT_DEVICE float* parts(int index) const {
    return tile_parts_ + static_cast<int64_t>(index) * (kRows * kColumns * T::kThreads) + thread_index();
  }

  // True in the block that comes last, which then has the sums of the whole depth.
  FCT_DEVICE bool add_parts() {
    if (!comes_last(args_, shared_)) return false;
    for_each_sum([&](int m, int n) { sums_[m][n] = 0.0f; });
    for (int index = 0; index < sums_of_depth<float>(args_); ++index) {
      const float* const source = parts(index);
      for_each_sum([&](int m, int n) { sums_[m][n] += source[(m * kColumns + n) * T::kThreads]; });
    }
    return true;
  }

  // Of rows that exist: the parts of a single row are few.
  template <typename Visit>
  FCT_DEVICE void for_each_sum(Visit visit) {
    FCT_UNROLL
    for (int m = 0; m < kRows; ++m) {
      if (place_.first_row + row(m) >= args_.rows) continue;
      FCT_UNROLL
      for (int n = 0; n < kColumns; ++n) visit(m, n);
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
  float* tile_parts_ = nullptr;
  float open_[kRows][kColumns] = {};
  float sums_[kRows][kColumns] = {};
};

template <typename T>
FCT_DEVICE void layer_ffma(const LayerArgs& args, unsigned char* shared) {
  FfmaLayer<T>(args, shared).run();
}

}  // namespace fct::cuda
