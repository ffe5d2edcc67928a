// A layer on the tensor cores of Hopper: TMA brings operands into a ring of stages, two warpgroups multiply by wgmma,
// TMA takes outputs away. Blocks are persistent: each walks tiles, and loads the next one's operands while the outputs
// of the one before are still made.
//
// 16-bit elements have float32 sums. Unsigned bytes meet signed weights in exact int32 sums, so int8 gives the bits of
// every other kernel.
#pragma once

#include "cuda/simt/hopper.hpp"
#include "cuda/upgrade/epilogue.hpp"
#include "cuda/upgrade/layer_mma.hpp"
#include "cuda/upgrade/requantise.hpp"
#include "cuda/upgrade/wgmma_ring.hpp"
#include "cuda/upgrade/wgmma_tile.hpp"

namespace fct::cuda {

// Of a thread: the producer needs few, and the consumers then fit their sums. In all 512 threads' worth of 128.
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = 232;

template <typename Element, typename Output, typename T>
class WgmmaLayer {
  static constexpr bool kBytes = sizeof(Element) == 1;
  static constexpr int kStepElements = kStepBytes / static_cast<int>(sizeof(Element));
  static constexpr int kSliceColumns = kBoxRowBytes / static_cast<int>(sizeof(Output));
  static constexpr int kSums = T::kColumns / 2;  // of a thread
  static constexpr int kConsumerWarps = T::kConsumers * kWarpgroupThreads / kWarpLanes;
  static_assert(T::kColumns % kSliceColumns == 0);
  using Sum = typename SumOf<Element>::Type;
  using Place = RingPlace<T::kStages>;
  struct alignas(2 * sizeof(Output)) Pair {
    Output values[2];
  };
  struct alignas(8) FloatPair {
    float values[2];
  };

 public:
  FCT_DEVICE WgmmaLayer(const WgmmaArgs& args, unsigned char* shared)
      : args_(args),
        layer_(args.layer),
        shared_(shared),
        full_(reinterpret_cast<Mbarrier*>(shared + T::kBarriersAt)),
        empty_(full_ + T::kStages),
        steps_((layer_.depth + kStepElements - 1) / kStepElements),
        across_(static_cast<uint32_t>((layer_.columns + T::kColumns - 1) / T::kColumns)) {}

  FCT_DEVICE void run() {
    if (thread_index() == 0) {
      for (int stage = 0; stage < T::kStages; ++stage) {
        mbarrier_init(full_ + stage, 1);
        mbarrier_init(empty_ + stage, kConsumerWarps);
      }
      mbarrier_publish();
      prefetch_tensor_map(args_.x);
      prefetch_tensor_map(args_.weight);
      prefetch_tensor_map(args_.y);
    }
    sync_block();
    let_next_kernel_begin();
    wait_for_kernel_before();
    if (thread_index() < kWarpgroupThreads) {
      give_registers<kProducerRegisters>();
      if (thread_index() == 0) load_tiles();
    } else {
      take_registers<kConsumerRegisters>();
      consumer_ = warp_index() / 4 - 1;
      make_tiles();
    }
  }

  // What the ring asks for.
  FCT_DEVICE void wait_empty(int stage, int parity) { mbarrier_wait(empty_ + stage, parity); }
  FCT_DEVICE void fill(int stage, int step) {
    unsigned char* const target = shared_ + stage * T::kStageBytes;
    mbarrier_arrive_expect(full_ + stage, T::kStageBytes);
    tensor_load(target, args_.x, step * kStepElements, first_row_, full_ + stage);
    tensor_load(target + T::kRows * kStepBytes, args_.weight, step * kStepElements, first_column_, full_ + stage);
  }
  FCT_DEVICE void wait_full(int stage, int parity) { mbarrier_wait(full_ + stage, parity); }
  FCT_DEVICE void multiply(int stage, int step) {
    const unsigned char* const from = shared_ + stage * T::kStageBytes;
    const uint64_t x = wgmma_descriptor(from + consumer_ * (T::kConsumerRows * kStepBytes));
    const uint64_t weight = wgmma_descriptor(from + T::kRows * kStepBytes);
    wgmma_fence();
    FCT_UNROLL
    for (int i = 0; i < kStepBytes / 32; ++i) {
      wgmma(Element{}, sums_, wgmma_advance(x, 32 * i), wgmma_advance(weight, 32 * i), step > 0 || i > 0);
    }
    wgmma_commit();
  }
  FCT_DEVICE void wait_products_but_newest() { wgmma_wait<1>(); }
  FCT_DEVICE void wait_products() { wgmma_wait<0>(sums_); }
  FCT_DEVICE void release(int stage) {
    if (lane_index() == 0) mbarrier_arrive(empty_ + stage);
  }

 private:
  // Neighbours share the rows of x, and all share the weights, in L2. 32 bits hold any tile, and divide without a call.
  FCT_DEVICE bool take_tile(uint32_t tile) {
    const uint32_t row = tile / across_ * T::kRows;
    first_row_ = static_cast<int>(row);
    first_column_ = static_cast<int>(tile % across_) * T::kColumns;
    return row < layer_.rows;
  }
  FCT_DEVICE static uint32_t first_tile() { return static_cast<uint32_t>(block_index()); }
  FCT_DEVICE static uint32_t next_tile(uint32_t tile) { return tile + static_cast<uint32_t>(block_count()); }

  FCT_DEVICE void load_tiles() {
    Place place;
    for (uint32_t tile = first_tile(); take_tile(tile); tile = next_tile(tile)) produce(place, steps_, *this);
  }

  FCT_DEVICE void make_tiles() {
    Place place;
    if (consumer_ == 1 && take_tile(first_tile())) fall_behind<T::kStages>(steps_, *this);
    for (uint32_t tile = first_tile(); take_tile(tile); tile = next_tile(tile)) {
      consume(place, steps_, *this);
      store_outputs();
    }
    if (thread_index() % kWarpgroupThreads == 0) tensor_store_wait_all();
  }

  // Slice by slice through shared memory: one is written while TMA reads the one before.
  FCT_DEVICE void store_outputs() {
    uint32_t largest[2] = {};  // of a row's 16-bit outputs in this thread, two and two, without sign: NaN is above all
    FCT_UNROLL
    for (int slice = 0; slice < T::kColumns / kSliceColumns; ++slice, turn_ ^= 1) {
      unsigned char* const target = shared_ + T::kSlicesAt + (consumer_ * T::kSlices + turn_) * T::kSliceBytes;
      FCT_UNROLL
      for (int j = 0; j < kSliceColumns / 8; ++j) {
        write_columns(target, slice * (kSliceColumns / 2) + 4 * j, slice * kSliceColumns, largest);
      }
      fence_async_proxy();
      const bool first = thread_index() % kWarpgroupThreads == 0;
      if (first) tensor_store_wait_read<0>();  // the other slice is free, which all know past the barrier
      sync_some(1 + consumer_, kWarpgroupThreads);
      if (first) {
        tensor_store(args_.y, first_column_ + slice * kSliceColumns, first_row_ + consumer_ * T::kConsumerRows, target);
        tensor_store_commit();
      }
    }
    if constexpr (sizeof(Output) == 2) {
      if (layer_.status != nullptr) mark_overflows(largest);
    }
  }

  // Sums [i, i + 4): two columns of two rows.
  FCT_DEVICE void write_columns(unsigned char* target, int i, int slice_column, uint32_t (&largest)[2]) {
    const int column = wgmma_column(i);
    FloatPair scale{}, bias{};
    if (first_column_ + column < layer_.columns) {  // a number that is even, as is this one
      bias = pair_at(layer_.bias, i);
      if constexpr (kBytes) scale = pair_at(layer_.scale, i);
    }
    FCT_UNROLL
    for (int half = 0; half < 2; ++half) {
      Pair outputs;
      FCT_UNROLL
      for (int j = 0; j < 2; ++j) {
        outputs.values[j] = output_of(sums_[i + half * 2 + j], scale.values[j], bias.values[j]);
      }
      if constexpr (sizeof(Output) == 2) largest[half] = larger_pair(largest[half], outputs);
      const int row = wgmma_row(i + half * 2);
      const int byte = (column - slice_column) * static_cast<int>(sizeof(Output));
      *reinterpret_cast<Pair*>(target + chunk_at(row, byte / kChunkBytes) + byte % kChunkBytes) = outputs;
    }
  }

  // Of the columns of sums i and i + 1.
  FCT_DEVICE FloatPair pair_at(const float* values, int i) const {
    const float* const first = values + (first_column_ + wgmma_column(0));
    return *reinterpret_cast<const FloatPair*>(first + i / 4 * 8);
  }

  FCT_DEVICE Output output_of(Sum sum, float scale, float bias) const {
    if constexpr (kBytes) {
      return requantised<Output>(add(fct::cuda::multiply(static_cast<float>(sum), scale), bias), layer_.relu != 0);
    } else {
      return narrowed<Output>(larger(sum + bias, layer_.relu != 0 ? 0.0f : -kFloatInfinity));
    }
  }
  FCT_DEVICE static uint32_t larger_pair(uint32_t largest, const Pair& outputs) {
    const uint32_t bits = outputs.values[0].bits | static_cast<uint32_t>(outputs.values[1].bits) << 16;
    return larger_halves(largest, bits & 0x7fff7fffu);
  }

  // Several threads may find the same row; they write the same value. The row's input was judged before.
  FCT_DEVICE void mark_overflows(const uint32_t (&largest)[2]) const {
    FCT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Output low{static_cast<uint16_t>(largest[half] & 0xffffu)},
          high{static_cast<uint16_t>(largest[half] >> 16)};
      if (is_finite(low) && is_finite(high)) continue;
      const int64_t row = int64_t{first_row_} + consumer_ * T::kConsumerRows + wgmma_row(2 * half);
      if (row >= layer_.rows) continue;
      unsigned char* const status = layer_.status + row;
      if (*status == kRowOk) *status = kRowOverflow;
    }
  }

  const WgmmaArgs& args_;
  const LayerArgs& layer_;
  unsigned char* const shared_;
  Mbarrier* const full_;
  Mbarrier* const empty_;
  const int steps_;
  const uint32_t across_;
  int consumer_ = 0;
  int turn_ = 0;
  int first_row_ = 0;
  int first_column_ = 0;
  Sum sums_[kSums];
};

template <typename Element, typename Output, typename T>
FCT_DEVICE void layer_wgmma(const WgmmaArgs& args, unsigned char* shared) {
  WgmmaLayer<Element, Output, T>(args, shared).run();
}

}  // namespace fct::cuda
