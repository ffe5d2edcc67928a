// Split-K: blocks that share the depth of a tile, so that a few rows keep all multiprocessors busy.
//
// Each block leaves its part of the sums in scratch; the one that comes last to a tile adds all parts and writes the
// outputs. Only who adds depends on time: the parts and the order in which they are added never do.
#pragma once

#include "cuda/simt/simt.hpp"
#include "cuda/upgrade/args.hpp"
#include "cuda/upgrade/stage.hpp"
#include "cuda/upgrade/tile.hpp"

namespace fct::cuda {

// How often the whole depth holds kSplitSteps.
template <typename Element>
FCT_DEVICE int sums_of_depth(const LayerArgs& args) {
  return (all_steps<Element>(args).end + kSplitSteps - 1) / kSplitSteps;
}

// Which of a tile's splits this block is.
FCT_DEVICE int split_of(const LayerArgs& args) {
  return static_cast<int>(static_cast<uint32_t>(block_index()) % static_cast<uint32_t>(args.splits));
}

// The plan never asks for so many splits that one has no steps.
template <typename Element, typename T>
FCT_DEVICE Steps steps_of(const LayerArgs& args) {
  Steps steps = all_steps<Element>(args);
  if constexpr (T::kSplits) {
    const int share = (sums_of_depth<Element>(args) + args.splits - 1) / args.splits * kSplitSteps;
    steps.first = split_of(args) * share;
    if (steps.first + share < steps.end) steps.end = steps.first + share;
  }
  return steps;
}

// All threads of a block, after they wrote their parts. True in the block that comes last, which may read all parts.
FCT_DEVICE bool comes_last(const LayerArgs& args, unsigned char* shared) {
  fence_device();  // this thread's parts are visible before its block's arrival
  sync_block();
  int* const last = reinterpret_cast<int*>(shared);
  if (thread_index() == 0) {
    uint32_t* const arrivals =
        args.arrivals + static_cast<uint32_t>(block_index()) / static_cast<uint32_t>(args.splits);
    *last = atomic_add(arrivals, 1u) + 1 == static_cast<uint32_t>(args.splits);
    if (*last) *arrivals = 0;  // for the next layer
  }
  sync_block();
  const bool is_last = *last != 0;
  sync_block();    // the word is free again
  fence_device();  // the parts are read after the arrival
  return is_last;
}

}  // namespace fct::cuda
