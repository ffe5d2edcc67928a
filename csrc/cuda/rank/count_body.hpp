// How many rows of a chunk reach each positive, and how many stand before the best one. A block a query and stripe.
//
// Of the sorted positives each row is counted at the first that it reaches; sums over them follow (precision_body.hpp).
// The search begins among at most 4096 of their scores in shared memory, evenly spread; where these are all, the counts
// are kept there too.
#pragma once

#include "cuda/rank/order.hpp"
#include "cuda/simt/simt.hpp"

namespace fct::cuda::rank {

struct CountArgs {
  const QueryPositives* queries;
  const Key* keys;      // sorted
  const float* scores;  // [queries, score_stride], of gallery rows [first_row, first_row + rows)
  int64_t score_stride;
  int64_t first_row;
  int64_t rows;
  int64_t stripes;
  uint32_t* reaching;  // beside the keys: rows that reach this positive and none before
  uint32_t* ahead;     // [queries]: rows before the best positive
};

// The first of the levels low .. high, which fall, that `reach` reaches; it reaches level_of(high) at least.
template <typename LevelOf>
FCT_DEVICE int64_t first_reached(int64_t low, int64_t high, uint32_t reach, LevelOf level_of) {
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (level_of(middle) > reach) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

FCT_DEVICE void count_body(const CountArgs& args, unsigned char* shared) {
  using Block = CountBlock;
  uint32_t* const levels = reinterpret_cast<uint32_t*>(shared);
  uint32_t* const counts = levels + Block::kLevels;
  const int64_t place = block_index() / args.stripes;
  const int64_t stripe = block_index() % args.stripes;
  const QueryPositives query = args.queries[place];
  const Key* const keys = args.keys + query.keys_begin;
  uint32_t* const reaching = args.reaching + query.keys_begin;
  const int64_t positives = positives_of(keys, query.count);
  if (positives == 0) return;
  const int64_t spacing = (positives + Block::kLevels - 1) / Block::kLevels;
  const int64_t known = (positives + spacing - 1) / spacing;
  const bool all_known = spacing == 1;
  for (int64_t i = thread_index(); i < known; i += Block::kThreads) {
    levels[i] = reach_of(keys[i * spacing]);
    counts[i] = 0;
  }
  sync_block();

  const Key best = keys[0];
  const uint32_t lowest = reach_of(keys[positives - 1]);
  const auto count = [&](uint32_t reach) {
    if (reach < levels[known - 1]) {  // between the last known level and the lowest
      const int64_t first = (known - 1) * spacing + 1;
      atomic_add(reaching + first_reached(first, positives - 1, reach, [&](int64_t i) { return reach_of(keys[i]); }),
                 1u);
      return;
    }
    const int64_t level = first_reached(0, known - 1, reach, [&](int64_t i) { return levels[i]; });
    if (all_known) {
      atomic_add(counts + level, 1u);
      return;
    }
    const int64_t low = level == 0 ? 0 : (level - 1) * spacing + 1;
    atomic_add(reaching + first_reached(low, level * spacing, reach, [&](int64_t i) { return reach_of(keys[i]); }), 1u);
  };

  const int64_t share = (args.rows + args.stripes - 1) / args.stripes;
  const int64_t first = stripe * share;
  const int64_t last = first + share < args.rows ? first + share : args.rows;
  const float* const scores = args.scores + place * args.score_stride;
  uint32_t ahead = 0;
  for (int64_t i = first + thread_index(); i < last; i += Block::kThreads) {
    const int64_t row = args.first_row + i;
    const Key key = rank_key(scores[i], row);
    if (reach_of(key) < lowest || row == query.self) continue;
    count(reach_of(key));
    ahead += key > best;
  }
  ahead = reduce_warp(ahead, [](uint32_t a, uint32_t b) { return a + b; });
  if (lane_index() == 0 && ahead != 0) atomic_add(args.ahead + place, ahead);
  sync_block();
  for (int64_t i = thread_index(); all_known && i < known; i += Block::kThreads) {
    if (counts[i] != 0) atomic_add(reaching + i, counts[i]);
  }
}

}  // namespace fct::cuda::rank
