// A layer of int8 that reads bytes, on tensor cores: u8 activations times s8 weights with exact int32 sums, so no
// choice of tile changes a bit. Stages, swizzle and fragments are those of layer_mma.hpp, byte for byte; a step of
// depth is 128 elements.
#pragma once

#include "cuda/simt/simt.hpp"
#include "cuda/upgrade/requantise.hpp"
#include "cuda/upgrade/stage.hpp"

namespace fct::cuda {

// Output: uint8_t, or float.
template <typename Output, typename T>
class ImmaLayer {
 public:
  FCT_DEVICE ImmaLayer(const LayerArgs& args, unsigned char* shared)
      : args_(args), shared_(shared), place_(tile_place<T>(args)) {
    const int warp = warp_index();
    first_row_ = warp % T::kWarpRows * kRows;
    first_column_ = warp / T::kWarpRows % T::kWarpColumns * kColumns;
    depth_ = warp / (T::kWarpRows * T::kWarpColumns);
  }

  FCT_DEVICE void run() {
    StageRing<uint8_t, T> ring(args_, shared_, place_.first_row, place_.first_column, all_steps<uint8_t>(args_));
    ring.start();
    for (int step = 0; step < ring.steps(); ++step) {
      ring.advance(step);
      multiply_step(ring.x_stage(step), ring.weight_stage(step));
    }
    ring.finish();
    if constexpr (T::kWarpDepths > 1) add_depths();
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
  static constexpr int kMmaSteps = kStepChunks / 2;  // of 32 elements, two chunks
  struct alignas(2 * sizeof(Output)) Pair {
    Output values[2];
  };
  static_assert(kRows % 16 == 0 && kColumns % 16 == 0 && kMmaSteps % T::kWarpDepths == 0);

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
          mma_16832(sums_[m][n], a[m], b[0], b[1]);
          mma_16832(sums_[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  // The sums of all depths, added by depth 0.
  FCT_DEVICE void add_depths() {
    int32_t* const parts = reinterpret_cast<int32_t*>(shared_ + T::kRows * T::template kOutputStride<Output>);
    const auto part = [&](int depth, int i) {
      return parts + ((depth * kValues + i) * kDepthThreads + thread_index() % kDepthThreads);
    };
    for_each_sum([&](int i, int32_t& sum) { *part(depth_, i) = sum; });
    sync_block();
    if (depth_ != 0) return;
    for_each_sum([&](int i, int32_t& sum) {
      for (int depth = 1; depth < T::kWarpDepths; ++depth) sum += *part(depth, i);
    });
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
        scale[i] = args_.scale[at];
        bias[i] = args_.bias[at];
      }
      FCT_UNROLL
      for (int m = 0; m < kRowTiles; ++m) {
        FCT_UNROLL
        for (int half = 0; half < 2; ++half) {
          Pair outputs;
          FCT_UNROLL
          for (int i = 0; i < 2; ++i) {
            const float sum = static_cast<float>(sums_[m][n][half * 2 + i]);
            outputs.values[i] = requantised<Output>(add(multiply(sum, scale[i]), bias[i]), args_.relu != 0);
          }
          const int row = first_row_ + m * 16 + group + half * 8;
          *reinterpret_cast<Pair*>(shared_ + row * T::template kOutputStride<Output> +
                                   column * static_cast<int>(sizeof(Output))) = outputs;
        }
      }
    }
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
  int32_t sums_[kRowTiles][kColumnTiles][4] = {};
};

template <typename Output, typename T>
FCT_DEVICE void layer_imma(const LayerArgs& args, unsigned char* shared) {
  ImmaLayer<Output, T>(args, shared).run();
}

}  // namespace fct::cuda
