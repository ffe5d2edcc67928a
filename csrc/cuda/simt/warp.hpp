// Exchange inside a warp. All 32 lanes take part, always: a body that calls these in divergent code is wrong, and the
// shim says so.
#pragma once

#include "cuda/simt/base.hpp"

namespace fct::cuda {

constexpr uint32_t kAllLanes = 0xffffffffu;

#if defined(__CUDACC__)

// Also orders the lanes' accesses to memory.
FCT_DEVICE void sync_warp() { __syncwarp(); }
template <typename T>
FCT_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(kAllLanes, value, lane);
}
template <typename T>
FCT_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}
FCT_DEVICE uint32_t ballot(bool vote) { return __ballot_sync(kAllLanes, vote); }
FCT_DEVICE int count_bits(uint32_t bits) { return __popc(bits); }
FCT_DEVICE int lowest_bit(uint32_t bits) { return __ffs(static_cast<int>(bits)) - 1; }    // -1 for none
FCT_DEVICE int highest_bit(uint32_t bits) { return 31 - __clz(static_cast<int>(bits)); }  // -1 for none

#else

FCT_DEVICE void sync_warp() { shim::current().warp_barrier(); }
template <typename T>
FCT_DEVICE T shuffle(T value, int lane) {
  return shim::current().exchange(shim::Collective::shuffle, value, lane & (kWarpLanes - 1));
}
template <typename T>
FCT_DEVICE T shuffle_xor(T value, int mask) {
  return shim::current().exchange(shim::Collective::shuffle_xor, value, lane_index() ^ mask);
}
FCT_DEVICE uint32_t ballot(bool vote) { return shim::current().ballot(vote); }
FCT_DEVICE int count_bits(uint32_t bits) { return __builtin_popcount(bits); }
FCT_DEVICE int lowest_bit(uint32_t bits) { return __builtin_ffs(static_cast<int>(bits)) - 1; }
FCT_DEVICE int highest_bit(uint32_t bits) { return bits == 0 ? -1 : 31 - __builtin_clz(bits); }

#endif

// The lanes below this one, for a place in a compacted list: count_bits(ballot(keep) & lanes_below()).
FCT_DEVICE uint32_t lanes_below() { return (1u << lane_index()) - 1u; }

// The same value on every lane. `combine` must be associative and commutative up to what the caller tolerates.
template <typename T, typename Combine>
FCT_DEVICE T reduce_warp(T value, Combine combine) {
  FCT_UNROLL
  for (int mask = kWarpLanes / 2; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
  return value;
}

}  // namespace fct::cuda
