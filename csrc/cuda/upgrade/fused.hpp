// A small h in one kernel, from the caller's rows to unit rows: weights stay in shared memory for the block's life, and
// each warp takes tiles of 32 rows through all layers on its own, without a barrier of the block.
//
// A warp reads a layer's whole input into registers, as fragments, and writes the output over it. Products are added in
// the order of layer_mma's large tiles and rounded where they round, so a row's bits are theirs.
#pragma once

#include "cuda/simt/simt.hpp"
#include "cuda/upgrade/epilogue.hpp"
#include "cuda/upgrade/finish_rows.hpp"
#include "cuda/upgrade/fused_args.hpp"
#include "cuda/upgrade/fused_tile.hpp"

namespace fct::cuda {

// Of two 16-bit numbers in a word: bit 15 or 31 is set where one is NaN or Inf, since an exponent of all ones carries
// out of its field.
FCT_DEVICE uint32_t nonfinite_marks(Half, uint32_t pair) { return (pair & 0x7c007c00u) + 0x04000400u; }
FCT_DEVICE uint32_t nonfinite_marks(Bfloat, uint32_t pair) { return (pair & 0x7f807f80u) + 0x00800080u; }
constexpr uint32_t kNonfiniteMarks = 0x80008000u;

template <typename Element, int kMostDepth>
class FusedKernel {
 public:
  FCT_DEVICE FusedKernel(const FusedArgs& args, unsigned char* shared)
      : args_(args), shared_(shared), tile_(args, shared) {}

  FCT_DEVICE void run() {
    fill_weights();
    const int64_t stride = block_count() * (block_threads() / kWarpLanes) * kFusedRows;
    // Neighbouring tiles go to different blocks: few rows use all multiprocessors.
    const int64_t rows = args_.finish.rows;
    for (int64_t first = (block_index() + warp_index() * block_count()) * kFusedRows; first < rows; first += stride) {
      tile_.prefetch(args_.old, first + stride, rows);
      tile_.prefetch(args_.side, first + stride, rows);
      tile_.start(first, rows - first < kFusedRows ? static_cast<int>(rows - first) : kFusedRows);
      run_tile();
    }
  }

 private:
  static constexpr int kElementBytes = 2;
  static constexpr int kRowTiles = kFusedRows / 16;
  struct alignas(4) Pair {
    Element values[2];
  };
  struct alignas(8) FloatPair {
    float values[2];
  };

  // By all threads of the block, once.
  FCT_DEVICE void fill_weights() {
    for (int s = 0; s < args_.step_count; ++s) {
      const FusedStep& step = args_.steps[s];
      if (step.kind != FusedStep::Kind::layer) continue;
      const int row_bytes = depth_of(step) * kFusedStepBytes;
      const uint32_t chunks = static_cast<uint32_t>(row_bytes / kChunkBytes);
      const int columns = (step.columns + 15) / 16 * 16;
      const unsigned char* const weight = args_.weights + step.weight_at;
      const uint32_t threads = static_cast<uint32_t>(block_threads());
      for (uint32_t i = static_cast<uint32_t>(thread_index()); i < static_cast<uint32_t>(columns) * chunks;
           i += threads) {
        const int column = static_cast<int>(i / chunks), chunk = static_cast<int>(i % chunks);
        const bool exists = column < step.columns && chunk * kChunkBytes < step.depth * kElementBytes;
        const int64_t at = int64_t{column} * step.depth * kElementBytes + chunk * kChunkBytes;
        copy_async_16(shared_ + step.weight_shared + column * (row_bytes + kFusedPadBytes) + chunk * kChunkBytes,
                      exists ? weight + at : weight, exists ? kChunkBytes : 0);
      }
      for (int i = thread_index(); i < columns / 4; i += block_threads()) {
        const bool exists = i * 4 < step.columns;
        const unsigned char* const bias = args_.weights + step.bias_at;
        copy_async_16(shared_ + step.bias_shared + i * kChunkBytes, exists ? bias + i * kChunkBytes : bias,
                      exists ? kChunkBytes : 0);
      }
    }
    copy_async_commit();
    copy_async_wait<0>();
    sync_block();
  }

  FCT_DEVICE static int depth_of(const FusedStep& step) {
    return (step.depth + kFusedStepElements - 1) / kFusedStepElements;
  }

  FCT_DEVICE void run_tile() {
    FCT_UNROLL
    for (uint32_t& marks : marks_) marks = 0;
#if defined(__CUDACC__)
#pragma unroll 1
#endif
    for (int s = 0; s < args_.step_count; ++s) {
      const FusedStep& step = args_.steps[s];
      if (step.kind == FusedStep::Kind::layer) {
        // What lies between the layer's depth and whole steps meets weights of zero, and must not be NaN.
        if (step.depth % kFusedStepElements != 0) {
          *reinterpret_cast<Chunk*>(tile_.row(lane_index()) + step.x_at + step.depth * kElementBytes) = Chunk{};
        }
        sync_warp();
        run_layer<1>(step, depth_of(step));
      } else {
        tile_.load(step.kind == FusedStep::Kind::load_old ? args_.old : args_.side, step.y_at);
      }
    }
    mark_overflow();
    sync_warp();
    switch (static_cast<Dtype>(args_.finish.out_dtype)) {
      case Dtype::f32:
        finish<float>();
        break;
      case Dtype::f16:
        finish<Half>();
        break;
      case Dtype::bf16:
        finish<Bfloat>();
        break;
    }
  }

  // The depth as a constant: fragments are registers, which no index reaches.
  template <int kDepth>
  FCT_DEVICE void run_layer(const FusedStep& step, int depth) {
    if (depth == kDepth) {
      layer<kDepth>(step);
    } else if constexpr (kDepth < kMostDepth) {
      run_layer<kDepth + 1>(step, depth);
    }
  }

  template <int kDepth>
  FCT_DEVICE void layer(const FusedStep& step) {
    const int lane = lane_index();
    uint32_t a[kRowTiles][kDepth][4];
    FCT_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      const unsigned char* const x = tile_.row(m * 16 + lane % 16) + step.x_at + lane / 16 * kChunkBytes;
      FCT_UNROLL
      for (int k = 0; k < kDepth; ++k) load_matrix_x4(a[m][k], x + k * 2 * kChunkBytes);
    }
    sync_warp();  // from here on outputs take the place of inputs
    constexpr int kStride = kDepth * kFusedStepBytes + kFusedPadBytes;
    // Two column tiles at once: rows of the weights in 0-7 and 8-15, depth in the low and the high half.
    const unsigned char* weight =
        shared_ + step.weight_shared + (lane % 8 + lane / 16 * 8) * kStride + lane / 8 % 2 * kChunkBytes;
#if defined(__CUDACC__)
#pragma unroll 1
#endif
    for (int column = 0; column < step.columns; column += 16, weight += 16 * kStride) {
      float sums[kRowTiles][2][4] = {};
      FCT_UNROLL
      for (int k = 0; k < kDepth; ++k) {
        uint32_t b[4];
        load_matrix_x4(b, weight + k * 2 * kChunkBytes);
        FCT_UNROLL
        for (int m = 0; m < kRowTiles; ++m) {
          mma_16816(Element{}, sums[m][0], a[m][k], b[0], b[1]);
          mma_16816(Element{}, sums[m][1], a[m][k], b[2], b[3]);
        }
      }
      if (step.last) {
        write<true>(step, column, sums);
      } else {
        write<false>(step, column, sums);
      }
    }
    sync_warp();
  }

  template <bool kLast>
  FCT_DEVICE void write(const FusedStep& step, int first_column, const float (&sums)[kRowTiles][2][4]) {
    const int group = lane_index() / 4, pair = lane_index() % 4 * 2;
    FCT_UNROLL
    for (int n = 0; n < 2; ++n) {
      const int column = first_column + n * 8 + pair;
      const FloatPair bias = *reinterpret_cast<const FloatPair*>(shared_ + step.bias_shared + column * 4);
      FCT_UNROLL
      for (int i = 0; i < kRowTiles * 2; ++i) {
        const float* const sum = &sums[i / 2][n][i % 2 * 2];
        const float y[2] = {activate(sum[0], bias.values[0], step.relu != 0),
                            activate(sum[1], bias.values[1], step.relu != 0)};
        unsigned char* const target = tile_.row(i * 8 + group) + step.y_at;
        if constexpr (kLast) {
          *reinterpret_cast<FloatPair*>(target + column * 4) = {y[0], y[1]};
        } else {
          Pair outputs;
          narrow(y[0], outputs.values[0]);
          narrow(y[1], outputs.values[1]);
          *reinterpret_cast<Pair*>(target + column * kElementBytes) = outputs;
          const uint32_t word = outputs.values[0].bits | static_cast<uint32_t>(outputs.values[1].bits) << 16;
          marks_[i] |= nonfinite_marks(Element{}, word);
        }
      }
    }
  }

  // Rows some activation of which left the range of 16 bits; a row's input was judged before.
  FCT_DEVICE void mark_overflow() {
    FCT_UNROLL
    for (int i = 0; i < kRowTiles * 2; ++i) {
      marks_[i] |= shuffle_xor(marks_[i], 1);
      marks_[i] |= shuffle_xor(marks_[i], 2);
      unsigned char& status = tile_.status(i * 8 + lane_index() / 4);
      if (lane_index() % 4 == 0 && (marks_[i] & kNonfiniteMarks) != 0 && status == kRowOk) status = kRowOverflow;
    }
  }

  // As finish_row does, but each lane has the verdict on a row of its own: one square root for 32 rows.
  template <typename Output>
  FCT_DEVICE void finish() {
    const FinishArgs& args = args_.finish;
    const int lane = lane_index();
    double squares = 0.0;
    bool fits = true;
    for (int r = 0; r < kFusedRows; ++r) {
      const RowSums sums = sum_row<Output>(reinterpret_cast<const float*>(tile_.row(r)), args.columns, false);
      if (lane == r) {
        squares = sums.squares;
        fits = sums.fits;
      }
    }
    const float* const mine = reinterpret_cast<const float*>(tile_.row(lane));
    const float uncertainty = args.has_uncertainty ? mine[args.columns] : 0.0f;
    const Verdict verdict = judge(args, tile_.status(lane), squares, fits, uncertainty);
    const bool ok = verdict.status == kRowOk;
    for (int r = 0; r < tile_.count(); ++r) {
      const bool row_ok = shuffle(static_cast<int>(ok), r) != 0;
      const double scale = shuffle(verdict.scale, r);
      write_row(args, reinterpret_cast<const float*>(tile_.row(r)), row_ok, scale,
                static_cast<Output*>(args.out) + (tile_.first() + r) * args.out_stride);
    }
    if (lane < tile_.count()) {
      args.status[tile_.first() + lane] = verdict.status;
      if (args.uncertainty != nullptr) args.uncertainty[tile_.first() + lane] = ok ? uncertainty : 0.0f;
    }
  }

  const FusedArgs& args_;
  unsigned char* const shared_;
  FusedTile<Element> tile_;
  uint32_t marks_[kRowTiles * 2] = {};
};

template <typename Element, int kMostDepth>
FCT_DEVICE void fused(const FusedArgs& args, unsigned char* shared) {
  FusedKernel<Element, kMostDepth>(args, shared).run();
}

}  // namespace fct::cuda
