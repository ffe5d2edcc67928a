// A layer on tensor cores: multistage cp.async, ldmatrix, mma.sync.
//
// 16-bit elements have float32 sums (m16n8k16). Unsigned bytes meet signed weights in exact int32 sums (m16n8k32): byte
// for byte the same stages, swizzle and fragments, a step of depth being 128 elements; no choice of tile changes a bit,
// and depths are never split among blocks.
#pragma once

#include "cuda/simt/simt.hpp"
#include "cuda/upgrade/epilogue.hpp"
#include "cuda/upgrade/requantise.hpp"
#include "cuda/upgrade/split.hpp"
#include "cuda/upgrade/stage.hpp"

namespace fct::cuda {

template <typename Element>
struct SumOf {
  using Type = float;
};
template <>
struct SumOf<uint8_t> {
  using Type = int32_t;
};

FCT_DEVICE void mma_step(uint8_t, int32_t (&sums)[4], const uint32_t (&a)[4], uint32_t low, uint32_t high) {
  mma_16832(sums, a, low, high);
}
template <typename Element>
FCT_DEVICE void mma_step(Element, float (&sums)[4], const uint32_t (&a)[4], uint32_t low, uint32_t high) {
  mma_16816(Element{}, sums, a, low, high);
}

template <typename Element, typename Output, typename T>
class MmaLayer {
  static constexpr bool kBytes = sizeof(Element) == 1;
  static constexpr bool kSplits = T::kSplits && !kBytes;
  using Sum = typename SumOf<Element>::Type;

 public:
  FCT_DEVICE MmaLayer(const LayerArgs& args, unsigned char* shared)
      : args_(args), shared_(shared), place_(tile_place<T>(args)) {
    const int warp = warp_index();
    first_row_ = warp % T::kWarpRows * kRows;
    first_column_ = warp / T::kWarpRows % T::kWarpColumns * kColumns;
    depth_ = warp / (T::kWarpRows * T::kWarpColumns);
  }

  FCT_DEVICE void run() {
    StageRing<Element, T> ring(args_, shared_, place_.first_row, place_.first_column, steps());
    ring.start();
    for (int step = 0; step < ring.steps(); ++step) {
      ring.advance(step);
      multiply_step(ring.x_stage(step), ring.weight_stage(step));
    }
    ring.finish();
    if constexpr (T::kWarpDepths > 1) add_depths();
    if constexpr (kSplits) {
      if (args_.splits > 1 && !add_splits()) return;
    }
    if (depth_ == 0) stage_outputs();
    sync_block();
    store_tile<Output, T>(args_, place_, shared_);
  }

 private:
  // The outputs of one warp.
  static constexpr int kRows = T::kRows / T::kWarpRows;
  static constexpr int kColumns = T::kColumns / T::kWarpColumns;
  static constexpr int kRowTiles = kRows / 16;
  static constexpr int kColumnTiles = kColumns / 8;
  static constexpr int kMmaSteps = kStepChunks / 2;  // of two chunks
  struct alignas(2 * sizeof(Output)) Pair {
    Output values[2];
  };
  static_assert(sizeof(Element) <= 2 && kRows % 16 == 0 && kColumns % 16 == 0 && kMmaSteps % T::kWarpDepths == 0);

  FCT_DEVICE Steps steps() const {
    if constexpr (kSplits) return steps_of<Element, T>(args_);
    return all_steps<Element>(args_);
  }

  FCT_DEVICE void multiply_step(const unsigned char* x, const unsigned char* weight) {
    const int lane = lane_index();
    FCT_UNROLL
    for (int i = 0; i < kMmaSteps / T::kWarpDepths; ++i) {
      const int chunk = 2 * (i * T::kWarpDepths + depth_);
      uint32_t a[kRowTiles][4];
      FCT_UNROLL
      for (int m = 0; m < kRowTiles; ++m) {
        load_matrix_x4(a[m], x + chunk_at(first_row_ + m * 16 + lane % 16, chunk + lane / 16));
      }
      FCT_UNROLL
      for (int n = 0; n < kColumnTiles; n += 2) {
        uint32_t b[4];  // two column tiles: rows of the weights in 0-7 and 8-15, depth in the low and the high half
        load_matrix_x4(b, weight + chunk_at(first_column_ + n * 8 + lane % 8 + lane / 16 * 8, chunk + lane / 8 % 2));
        FCT_UNROLL
        for (int m = 0; m < kRowTiles; ++m) {
          mma_step(Element{}, sums_[m][n], a[m], b[0], b[1]);
          mma_step(Element{}, sums_[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  // The sums of all depths, added in order by depth 0.
  FCT_DEVICE void add_depths() {
    Sum* const parts = reinterpret_cast<Sum*>(shared_ + T::kRows * T::template kOutputStride<Output>);
    const auto part = [&](int depth, int i) {
      return parts + ((depth * kValues + i) * kDepthThreads + thread_index() % kDepthThreads);
    };
    for_each_sum([&](int i, Sum& sum) { *part(depth_, i) = sum; });
    sync_block();
    if (depth_ != 0) return;
    for_each_sum([&](int i, Sum& sum) {
      for (int depth = 1; depth < T::kWarpDepths; ++depth) sum += *part(depth, i);
    });
  }

  // Leaves this block's sums in scratch. True in the block that comes last, whose depth 0 then has the sums of all
  // splits, added in one order: each depth every kWarpDepths-th split, then the depths.
  FCT_DEVICE bool add_splits() {
    const int split = split_of(args_);
    float* const parts =
        args_.parts + (block_index() - split) * (kValues * kDepthThreads) + thread_index() % kDepthThreads;
    const auto part = [&](int from, int i) { return parts + (from * kValues + i) * kDepthThreads; };
    if (depth_ == 0) for_each_sum([&](int i, float& sum) { *part(split, i) = sum; });
    if (!comes_last(args_, shared_)) return false;
    for_each_sum([](int, float& sum) { sum = 0.0f; });
    for (int from = depth_; from < args_.splits; from += T::kWarpDepths) {
      for_each_sum([&](int i, float& sum) { sum += *part(from, i); });
    }
    if constexpr (T::kWarpDepths > 1) add_depths();
    return true;
  }

  FCT_DEVICE void stage_outputs() {
    const int group = lane_index() / 4, pair = lane_index() % 4 * 2;
    FCT_UNROLL
    for (int n = 0; n < kColumnTiles; ++n) {
      const int column = first_column_ + n * 8 + pair;
      float scale[2] = {}, bias[2] = {};
      FCT_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int at = place_.first_column + column + i;
        if (at >= args_.columns) continue;
        bias[i] = args_.bias[at];
        if constexpr (kBytes) scale[i] = args_.scale[at];
      }
      FCT_UNROLL
      for (int m = 0; m < kRowTiles; ++m) {
        FCT_UNROLL
        for (int half = 0; half < 2; ++half) {
          Pair outputs;
          FCT_UNROLL
          for (int i = 0; i < 2; ++i) {
            outputs.values[i] = output_of(sums_[m][n][half * 2 + i], scale[i], bias[i]);
          }
          const int row = first_row_ + m * 16 + group + half * 8;
          *reinterpret_cast<Pair*>(shared_ + row * T::template kOutputStride<Output> +
                                   column * static_cast<int>(sizeof(Output))) = outputs;
        }
      }
    }
  }

  FCT_DEVICE Output output_of(Sum sum, float scale, float bias) const {
    Output output;
    if constexpr (kBytes) {
      output = requantised<Output>(add(multiply(static_cast<float>(sum), scale), bias), args_.relu != 0);
    } else {
      narrow(activate(sum, bias, args_.relu != 0), output);
    }
    return output;
  }

  static constexpr int kValues = kRowTiles * kColumnTiles * 4;
  static constexpr int kDepthThreads = T::kThreads / T::kWarpDepths;

  template <typename Visit>
  FCT_DEVICE void for_each_sum(Visit visit) {
    FCT_UNROLL
    for (int i = 0; i < kValues; ++i) visit(i, sums_[i / (kColumnTiles * 4)][i / 4 % kColumnTiles][i % 4]);
  }

  const LayerArgs& args_;
  unsigned char* const shared_;
  const TilePlace place_;
  int first_row_;
  int first_column_;
  int depth_;
  Sum sums_[kRowTiles][kColumnTiles][4] = {};
};

template <typename Element, typename Output, typename T>
FCT_DEVICE void layer_mma(const LayerArgs& args, unsigned char* shared) {
  MmaLayer<Element, Output, T>(args, shared).run();
}

}  // namespace fct::cuda
