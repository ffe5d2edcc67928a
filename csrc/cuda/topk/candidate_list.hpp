// A query's best candidates of one stripe, kept by one warp: a sorted list in device memory and a small buffer of new
// keys in shared memory that is merged into it when full.
//
// The list is touched only by merges, which grow rare: of n rows in random order about kept (1 + ln(n / kept)) enter.
#pragma once

#include "cuda/simt/simt.hpp"
#include "cuda/topk/order.hpp"

namespace fct::cuda::topk {

// The lanes' keys in descending order of lanes.
FCT_DEVICE Key sort_warp(Key key) {
  FCT_UNROLL
  for (int size = 2; size <= kWarpLanes; size *= 2) {
    FCT_UNROLL
    for (int stride = size / 2; stride > 0; stride /= 2) {
      const Key other = shuffle_xor(key, stride);
      const bool descending = (lane_index() & size) == 0;
      const bool first = (lane_index() & stride) == 0;
      const Key larger = key > other ? key : other;
      const Key smaller = key > other ? other : key;
      key = first == descending ? larger : smaller;
    }
  }
  return key;
}

// How many of `count` descending keys are greater than `key`.
FCT_DEVICE int count_greater(const Key* keys, int count, Key key) {
  int low = 0;
  int high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (keys[middle] > key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Merges `count` keys of the buffer into list [kept], which is descending and filled up with kNoKey; all lanes
// together. Returns the list's last key. Every key moves to its rank: a new one's is its place among the new plus the
// greater ones of the list, an old one's the other way round. Old keys only move towards the end, by at most a warp's
// width, so blocks of 32 taken from the end overwrite nothing that is still to be read.
FCT_DEVICE Key merge_buffer(Key* list, int kept, Key* buffer, int count) {
  const int lane = lane_index();
  sync_warp();  // the buffer is written
  const Key fresh = sort_warp(lane < count ? buffer[lane] : kNoKey);
  sync_warp();
  buffer[lane] = fresh;
  const int fresh_rank = lane + count_greater(list, kept, fresh);
  sync_warp();  // the buffer is sorted for all
  for (int block = (kept - 1) / kWarpLanes * kWarpLanes; block >= 0; block -= kWarpLanes) {
    const int place = block + lane;
    const Key old = place < kept ? list[place] : kNoKey;
    const int rank = place + count_greater(buffer, kBufferKeys, old);
    sync_warp();
    if (old != kNoKey && rank < kept) list[rank] = old;
    sync_warp();
    if (ballot(old != kNoKey && rank != place) == 0 && ballot(old != kNoKey) != 0)
      break;  // nothing before moves either
  }
  if (fresh != kNoKey && fresh_rank < kept) list[fresh_rank] = fresh;
  sync_warp();
  return list[kept - 1];
}

}  // namespace fct::cuda::topk
