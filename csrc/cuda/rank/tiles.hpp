// The numbers and records that the plan and the kernels of the evaluation share. Plain C++, for the host as well.
#pragma once

#include <cstdint>

namespace fct::cuda::rank {

using Key = uint64_t;  // topk/order.hpp

// One query of a block: its positives are class_rows[class_begin .. class_begin + count), but for `self`; their keys
// and counts lie at [keys_begin .. keys_begin + count).
struct QueryPositives {
  int64_t class_begin;
  int64_t keys_begin;
  int64_t count;
  int64_t self;  // the gallery row that is left out; -1 for none
};

constexpr int kGatherThreads = 256;
constexpr int kPrecisionThreads = 256;

struct SortBlock {
  static constexpr int kThreads = 256;
  static constexpr int kTile = 4096;  // keys that are sorted in shared memory
  static constexpr int64_t kSharedBytes = kTile * static_cast<int64_t>(sizeof(Key));
};

struct CountBlock {
  static constexpr int kThreads = 256;
  static constexpr int kLevels = 4096;  // scores of positives that are searched in shared memory
  static constexpr int64_t kSharedBytes = 2 * kLevels * static_cast<int64_t>(sizeof(uint32_t));
};

}  // namespace fct::cuda::rank
