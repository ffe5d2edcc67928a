// The best `kept` of a query's new keys and those it has kept so far: radix selection in one block.
//
// New keys are scores of a tile, or lists of stripes to be merged. Those that beat what is kept already are few once a
// query has seen some rows, and are gathered in shared memory on one pass over the scores; only where they do not fit
// (the first tile, a gallery that gets ever better) the passes of the selection read the scores again. Keys differ, so
// the selection is exact and its set does not depend on the order of threads. What is kept is not sorted.
#pragma once

#include "cuda/topk/bound.hpp"

namespace fct::cuda::topk {

struct SelectArgs {
  int64_t queries;
  int64_t stripes;  // a query's columns are shared out among so many blocks, each with a list of its own
  int32_t kept;
  // Scores [queries, score_stride] of `width` rows, whose ordinals count from first_ordinal; or where null
  const float* scores;
  int64_t score_stride;
  int64_t width;
  uint32_t first_ordinal;
  const QueryFacts* query_facts;  // their floors; or null
  const Key* keys;                // [queries, width]
  Key* lists;                     // [queries, stripes, kept], filled up with kNoKey; carried on from launch to launch
  Key* pivots;  // [queries, stripes]: a full list's lowest key, so that what was not kept is below; else kNoKey
};

// Where `need` falls in the histogram, counted from the highest bucket.
struct Place {
  uint32_t bucket;
  uint32_t above;   // keys in higher buckets
  uint32_t inside;  // keys in the bucket
};

// By one warp, each lane 64 buckets, lane 0 the highest. Lanes start at different buckets, off each other's banks.
FCT_DEVICE Place find_place(const uint32_t* histogram, uint32_t need) {
  constexpr int kShare = SelectBlock::kBuckets / kWarpLanes;
  const int lane = lane_index();
  const uint32_t* const mine = histogram + (kWarpLanes - 1 - lane) * kShare;
  uint32_t sum = 0;
  for (int i = 0; i < kShare; ++i) sum += mine[(i + lane) % kShare];
  uint32_t through = sum;  // keys of this lane's and all higher buckets
  FCT_UNROLL
  for (int step = 1; step < kWarpLanes; step *= 2) {
    const uint32_t before = shuffle(through, lane < step ? lane : lane - step);
    if (lane >= step) through += before;
  }
  const int holder = lowest_bit(ballot(through >= need));
  Place place{0, through - sum, 0};
  if (lane == holder) {
    int i = kShare - 1;
    while (place.above + mine[i] < need) place.above += mine[i--];
    place.bucket = static_cast<uint32_t>((kWarpLanes - 1 - lane) * kShare + i);
    place.inside = mine[i];
  }
  return {shuffle(place.bucket, holder), shuffle(place.above, holder), shuffle(place.inside, holder)};
}

// A number that exactly `need` keys reach: the need-th key, with low digits zero as soon as a bucket belongs whole.
// `each(f)` calls f(key) for this thread's share of the keys, of which there are at least `need`; `shared` is the
// histogram and 4 words.
template <typename Each>
FCT_DEVICE Key find_pivot(const Each& each, uint32_t need, uint32_t* shared) {
  uint32_t* const histogram = shared;
  uint32_t* const result = shared + SelectBlock::kBuckets;
  Key prefix = 0;
  Key mask = 0;
  int shift = 64;
  while (shift > 0) {
    const int bits = shift < SelectBlock::kDigitBits ? shift : SelectBlock::kDigitBits;
    shift -= bits;
    for (int i = thread_index(); i < SelectBlock::kBuckets; i += SelectBlock::kThreads) histogram[i] = 0;
    sync_block();
    const uint32_t digit_mask = (1u << bits) - 1u;
    each([&](Key key) {
      if ((key & mask) == prefix) atomic_add(histogram + (static_cast<uint32_t>(key >> shift) & digit_mask), 1u);
    });
    sync_block();
    if (warp_index() == 0) {
      const Place place = find_place(histogram, need);
      if (lane_index() == 0) {
        result[0] = place.bucket;
        result[1] = place.above;
        result[2] = place.inside;
      }
    }
    sync_block();
    prefix |= static_cast<Key>(result[0]) << shift;
    mask |= static_cast<Key>(digit_mask) << shift;
    need -= result[1];
    if (result[2] == need) break;
  }
  sync_block();  // the words are free again
  return prefix;
}

template <bool kFromScores>
FCT_DEVICE void select_body(const SelectArgs& args, unsigned char* shared) {
  using Block = SelectBlock;
  Key* const gathered = reinterpret_cast<Key*>(shared);
  Key* const carried = gathered + Block::kGathered;
  uint32_t* const words = reinterpret_cast<uint32_t*>(carried + args.kept);
  uint32_t* const count = words + Block::kBuckets + 3;
  const int64_t query = block_index() / args.stripes;
  const int64_t stripe = block_index() % args.stripes;
  Key* const list = args.lists + block_index() * args.kept;
  const Key pivot = args.pivots[block_index()];

  // This stripe's columns: a run of the tile.
  const int64_t share = (args.width + args.stripes - 1) / args.stripes;
  const int64_t first = stripe * share;
  const int64_t last = first + share < args.width ? first + share : args.width;
  const float* const scores = kFromScores ? args.scores + query * args.score_stride : nullptr;
  const Key* const keys = kFromScores ? nullptr : args.keys + query * args.width;
  const bool has_floor = kFromScores && args.query_facts != nullptr;
  const float floor = has_floor ? args.query_facts[query].floor : float_from_bits(0x7fc00000u);
  const auto each_new = [&](auto f) {
    for (int64_t i = first + thread_index(); i < last; i += Block::kThreads) {
      Key key = kNoKey;
      if constexpr (kFromScores) {
        const float score = scores[i];
        if (!(score < floor)) key = key_of(score, args.first_ordinal + static_cast<uint32_t>(i));
      } else {
        key = keys[i];
      }
      if (key != kNoKey && key >= pivot) f(key);
    }
  };
  const auto each_carried = [&](auto f) {
    for (int i = thread_index(); i < args.kept; i += Block::kThreads) {
      if (carried[i] != kNoKey) f(carried[i]);
    }
  };

  if (thread_index() == 0) *count = 0;
  for (int i = thread_index(); i < args.kept; i += Block::kThreads) carried[i] = list[i];
  sync_block();
  each_new([&](Key key) {
    const uint32_t place = atomic_add(count, 1u);
    if (place < Block::kGathered) gathered[place] = key;
  });
  sync_block();
  const uint32_t fresh = *count;
  sync_block();
  if (fresh == 0) return;

  if (thread_index() == 0) *count = 0;
  sync_block();
  each_carried([&](Key) { atomic_add(count, 1u); });
  sync_block();
  const uint32_t total = *count + fresh;
  sync_block();

  const bool fits = fresh <= Block::kGathered;
  const auto each = [&](auto f) {
    each_carried(f);
    if (fits) {
      for (uint32_t i = thread_index(); i < fresh; i += Block::kThreads) f(gathered[i]);
    } else {
      each_new(f);
    }
  };
  const uint32_t kept = static_cast<uint32_t>(args.kept);
  const Key limit = total < kept ? kNoKey : find_pivot(each, kept, words);
  Key* const lowest = reinterpret_cast<Key*>(words + Block::kBuckets + 4);  // its complement, for atomic_max
  if (thread_index() == 0) {
    *count = 0;
    *lowest = 0;
  }
  sync_block();
  Key mine = ~kNoKey;
  each([&](Key key) {
    if (key < limit) return;
    list[atomic_add(count, 1u)] = key;
    mine = key < mine ? key : mine;
  });
  mine = reduce_warp(mine, [](Key a, Key b) { return a < b ? a : b; });
  if (lane_index() == 0) atomic_max(lowest, ~mine);
  sync_block();
  if (thread_index() == 0 && total >= kept) args.pivots[block_index()] = ~*lowest;
}

}  // namespace fct::cuda::topk
