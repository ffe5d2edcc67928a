// Each query's keys in descending order, in place. A block a query.
//
// A bitonic network whose every comparator puts the larger key first: what lies past the end counts as smaller than all
// keys and would stay where it is, so any number of keys is sorted without padding. Strides that fit a tile run in
// shared memory.
#pragma once

#include "cuda/rank/order.hpp"
#include "cuda/simt/simt.hpp"

namespace fct::cuda::rank {

struct SortArgs {
  const QueryPositives* queries;
  Key* keys;
};

FCT_DEVICE void sort_pair(Key* keys, int64_t count, int64_t low, int64_t high) {
  if (high >= count) return;
  const Key a = keys[low];
  const Key b = keys[high];
  if (a < b) {
    keys[low] = b;
    keys[high] = a;
  }
}

// First step of a merge of runs of size / 2 keys: each key against its mirror image in the other run.
FCT_DEVICE void merge_mirrored(Key* keys, int64_t count, int64_t size) {
  for (int64_t i = thread_index(); i < count; i += SortBlock::kThreads) {
    const int64_t place = i & (size - 1);
    if (place < size / 2) sort_pair(keys, count, i, i - place + size - 1 - place);
  }
  sync_block();
}

FCT_DEVICE void merge_step(Key* keys, int64_t count, int64_t stride) {
  for (int64_t i = thread_index(); i < count; i += SortBlock::kThreads) {
    if ((i & stride) == 0) sort_pair(keys, count, i, i + stride);
  }
  sync_block();
}

FCT_DEVICE void sort_body(const SortArgs& args, unsigned char* shared) {
  constexpr int64_t kTile = SortBlock::kTile;
  Key* const tile = reinterpret_cast<Key*>(shared);
  const QueryPositives query = args.queries[block_index()];
  Key* const keys = args.keys + query.keys_begin;
  const auto in_tiles = [&](auto work) {
    for (int64_t first = 0; first < query.count; first += kTile) {
      const int64_t inside = query.count - first < kTile ? query.count - first : kTile;
      for (int64_t i = thread_index(); i < inside; i += SortBlock::kThreads) tile[i] = keys[first + i];
      sync_block();
      work(inside);
      for (int64_t i = thread_index(); i < inside; i += SortBlock::kThreads) keys[first + i] = tile[i];
      sync_block();
    }
  };
  in_tiles([&](int64_t count) {
    for (int64_t size = 2; size / 2 < count; size *= 2) {
      merge_mirrored(tile, count, size);
      for (int64_t stride = size / 4; stride > 0; stride /= 2) merge_step(tile, count, stride);
    }
  });
  for (int64_t size = 2 * kTile; size / 2 < query.count; size *= 2) {
    merge_mirrored(keys, query.count, size);
    for (int64_t stride = size / 4; stride >= kTile; stride /= 2) merge_step(keys, query.count, stride);
    in_tiles([&](int64_t count) {
      for (int64_t stride = kTile / 2; stride > 0; stride /= 2) merge_step(tile, count, stride);
    });
  }
}

}  // namespace fct::cuda::rank
