// Scores of a ranking as unsigned numbers: topk/order.hpp, but that NaN counts as -inf, as on the CPU (core/rank.hpp).
#pragma once

#include "cuda/rank/tiles.hpp"
#include "cuda/topk/order.hpp"

namespace fct::cuda::rank {

using topk::kNoKey;  // of a query itself among its positives: below all keys, so that it is sorted to the end

constexpr uint32_t kLowestReach = 0x007fffffu;  // of -inf

// A row reaches a positive where its number is not lower.
FCT_DEVICE uint32_t reach_of(float score) {
  const uint32_t order = topk::order_of(score);
  return order < kLowestReach ? kLowestReach : order;
}
FCT_DEVICE uint32_t reach_of(Key key) { return static_cast<uint32_t>(key >> 32); }

FCT_DEVICE Key rank_key(float score, int64_t row) {
  return static_cast<Key>(reach_of(score)) << 32 | static_cast<uint32_t>(~static_cast<uint32_t>(row));
}

// How many of a query's keys, sorted, are positives.
FCT_DEVICE int64_t positives_of(const Key* keys, int64_t count) {
  return count > 0 && keys[count - 1] == kNoKey ? count - 1 : count;
}

}  // namespace fct::cuda::rank
