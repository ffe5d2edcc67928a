// From sums to outputs: bias, ReLU and cast in registers, then through shared memory to rows of 16-byte stores.
#pragma once

#include "cuda/simt/simt.hpp"
#include "cuda/upgrade/args.hpp"
#include "cuda/upgrade/stage.hpp"

namespace fct::cuda {

// NaN stays NaN: only what is below zero becomes zero.
FCT_DEVICE float relu(float x) { return x < 0.0f ? 0.0f : x; }

FCT_DEVICE float activate(float sum, float bias, bool with_relu) {
  const float y = sum + bias;
  return with_relu ? relu(y) : y;
}

template <typename Output>
FCT_DEVICE bool chunk_is_finite(const Chunk& chunk) {
  bool finite = true;
  FCT_UNROLL
  for (uint32_t word : chunk.words) {
    if constexpr (sizeof(Output) == 2) {
      finite &= is_finite(Output{static_cast<uint16_t>(word & 0xffffu)});
      finite &= is_finite(Output{static_cast<uint16_t>(word >> 16)});
    }
  }
  return finite;
}

// All threads of the block; the staged rows must be complete (a barrier before).
template <typename Output, typename T>
FCT_DEVICE void store_tile(const LayerArgs& args, const TilePlace& place, const unsigned char* staged) {
  constexpr int kChunkOutputs = kChunkBytes / static_cast<int>(sizeof(Output));
  constexpr int kRowChunks = T::kColumns / kChunkOutputs;
  for (int i = thread_index(); i < T::kRows * kRowChunks; i += T::kThreads) {
    const int row = i / kRowChunks;
    const int column = i % kRowChunks * kChunkOutputs;
    if (place.first_row + row >= args.rows || place.first_column + column >= args.columns) continue;
    const Chunk chunk = *reinterpret_cast<const Chunk*>(staged + row * T::template kOutputStride<Output> +
                                                        column * static_cast<int>(sizeof(Output)));
    Output* const target =
        static_cast<Output*>(args.y) + (place.first_row + row) * args.y_stride + place.first_column + column;
    *reinterpret_cast<Chunk*>(target) = chunk;
    // Several threads may find the same row; they write the same value. The row's input was judged before.
    if (args.status != nullptr && !chunk_is_finite<Output>(chunk)) {
      unsigned char* const status = args.status + place.first_row + row;
      if (*status == kRowOk) *status = kRowOverflow;
    }
  }
}

}  // namespace fct::cuda
