// From a query's kept keys to its result: exact scores where the keys are coarse, the proof, order, ids.
#pragma once

#include "cuda/topk/bound.hpp"

namespace fct::cuda::topk {

// Coarse keys count ordinals from the gallery's first row. Exact ones count the seeds first, since rows of earlier
// pieces have lower ids: the result's id i < seed_count is seed i, the others are rows ordinal - seed_count.
template <typename Stored>
struct FinishArgs {
  const float* queries;        // exact elements [.., cols]
  const uint32_t* query_list;  // which queries these are, or null for all in order
  int64_t query_count;
  Rows<Stored> gallery;
  const QueryFacts* query_facts;  // for coarse keys
  const Key* keys;                // [query_count, kept], in any order
  const Key* pivots;              // [query_count], for coarse keys
  int32_t kept;
  int32_t k;
  int32_t seed_count;  // 0 or k
  int32_t sorted;      // keys that are sorted: a power of two, at least kept + seed_count for coarse keys
  int64_t first_id;
  float* scores;       // [.., k], holding the seeds before
  int64_t* ids;        // [.., k]
  uint32_t* unproved;  // queries whose result is left as it was
  uint32_t* unproved_count;
};

// Descending, by all threads; `count` a power of two.
FCT_DEVICE void sort_block(Key* keys, int count) {
  for (int size = 2; size <= count; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int i = thread_index(); i < count / 2; i += FinishBlock::kThreads) {
        const int low = i / stride * 2 * stride + i % stride;
        const int high = low + stride;
        const bool descending = (low & size) == 0;
        const Key a = keys[low];
        const Key b = keys[high];
        if ((a < b) == descending) {
          keys[low] = b;
          keys[high] = a;
        }
      }
      sync_block();
    }
  }
}

// The exact score of `query` and this lane's row of the gallery (no row below 0), by one warp for its 32 lanes: rows
// pass through `stage` in pieces of 32 columns, so that loads run along rows and sums along columns.
template <Metric metric, typename Stored>
FCT_DEVICE float exact_score(const float* query, const Rows<Stored>& gallery, int64_t row, float* stage) {
  const int lane = lane_index();
  double scale = 1.0;
  if constexpr (metric == Metric::cosine) {
    for (int r = 0; r < kWarpLanes; ++r) {
      const int64_t source = shuffle(row, r);
      if (source < 0) continue;
      const double squares = squares_of_row(gallery.row(source), gallery.cols);
      if (r == lane) scale = unit_scale(squares);
    }
  }
  float total = 0.0f;
  float run = 0.0f;
  for (int first = 0; first < gallery.cols; first += kWarpLanes) {
    const int c = first + lane;
    for (int r = 0; r < kWarpLanes; ++r) {
      const int64_t source = shuffle(row, r);
      const double row_scale = shuffle(scale, r);
      const bool inside = source >= 0 && c < gallery.cols;
      stage[r * FinishBlock::kStagePitch + lane] =
          inside ? exact_element<metric>(gallery.row(source)[c], row_scale) : 0.0f;
    }
    sync_warp();
    const int cols = gallery.cols - first < kWarpLanes ? gallery.cols - first : kWarpLanes;
    for (int i = 0; i < cols; ++i) {
      run = exact_step<metric>(query[first + i], stage[lane * FinishBlock::kStagePitch + i], run);
    }
    sync_warp();
    const int next = first + kWarpLanes;
    if (next % kDepthRun == 0 || next >= gallery.cols) {
      total += run;
      run = 0.0f;
    }
  }
  return total;
}

// Whether no row that was not kept can come before `last`, the k-th exact key. Such rows have coarse keys below
// `pivot`.
FCT_DEVICE bool is_proved(const QueryFacts& facts, Key pivot, Key last, int seed_count) {
  if (!facts.provable) return false;
  if (pivot == kNoKey) return true;  // the list had room for all that passed the floor
  const float exact = score_of(last);
  const float bound = score_of(pivot);
  if (!is_nan(bound)) return static_cast<double>(exact) > facts.slope * static_cast<double>(bound) + facts.constant;
  // All others are hopeless rows: exactly NaN, with ordinals beyond the pivot's.
  if (!is_nan(exact)) return true;
  const uint32_t ordinal = ordinal_of(last);
  const uint32_t seeds = static_cast<uint32_t>(seed_count);
  return ordinal < seeds || key_of(exact, ordinal - seeds) >= pivot;
}

template <Metric metric, typename Stored, bool kCoarse>
FCT_DEVICE void finish_body(const FinishArgs<Stored>& args, unsigned char* shared) {
  Key* const keys = reinterpret_cast<Key*>(shared);
  float* const stage =
      reinterpret_cast<float*>(keys + args.sorted) + warp_index() * kWarpLanes * FinishBlock::kStagePitch;
  const int64_t place = block_index();
  const int64_t query = args.query_list != nullptr ? args.query_list[place] : place;
  const Key* const kept = args.keys + place * args.kept;
  const uint32_t seed_count = static_cast<uint32_t>(args.seed_count);
  constexpr float kSign = metric == Metric::l2 ? -1.0f : 1.0f;

  if constexpr (kCoarse) {
    for (int first = warp_index() * kWarpLanes; first < args.kept; first += FinishBlock::kThreads) {
      const int i = first + lane_index();
      const Key coarse = i < args.kept ? kept[i] : kNoKey;
      const int64_t row = coarse == kNoKey ? -1 : static_cast<int64_t>(ordinal_of(coarse));
      const float score = exact_score<metric>(args.queries + query * args.gallery.cols, args.gallery, row, stage);
      if (i < args.kept) keys[i] = row < 0 ? kNoKey : key_of(score, ordinal_of(coarse) + seed_count);
    }
    for (int i = args.kept + thread_index(); i < args.sorted; i += FinishBlock::kThreads) {
      const int seed = i - args.kept;
      keys[i] = seed < args.seed_count ? key_of(kSign * args.scores[query * args.k + seed], static_cast<uint32_t>(seed))
                                       : kNoKey;
    }
  } else {
    for (int i = thread_index(); i < args.sorted; i += FinishBlock::kThreads) {
      keys[i] = i < args.kept ? kept[i] : kNoKey;
    }
  }
  sync_block();
  sort_block(keys, args.sorted);

  if constexpr (kCoarse) {
    const Key last = keys[args.k - 1];
    sync_block();  // all have read it: below, ids take the keys' place
    if (!is_proved(args.query_facts[query], args.pivots[place], last, args.seed_count)) {
      if (thread_index() == 0) args.unproved[atomic_add(args.unproved_count, 1u)] = static_cast<uint32_t>(query);
      return;
    }
  }
  // Ids of seeds are read before any is overwritten: what moves is staged in the words that the keys no longer need.
  int64_t* const ids = reinterpret_cast<int64_t*>(keys);
  for (int i = thread_index(); i < args.k; i += FinishBlock::kThreads) {
    const Key key = keys[i];
    const uint32_t ordinal = ordinal_of(key);
    args.scores[query * args.k + i] = kSign * score_of(key) + 0.0f;  // no negative zero
    ids[i] = ordinal < seed_count ? args.ids[query * args.k + ordinal]
                                  : args.first_id + static_cast<int64_t>(ordinal - seed_count);
  }
  sync_block();
  for (int i = thread_index(); i < args.k; i += FinishBlock::kThreads) args.ids[query * args.k + i] = ids[i];
}

}  // namespace fct::cuda::topk
