// As peak_body.hpp, over Quads: the products of bytes that the int8 tile is made of.
#pragma once

#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

int64_t peak(int64_t rounds, float* sink) {
  constexpr int kSums = Quads::kTileRows * kPanelWidth / Quads::kLanes;
  Quads sum[kSums];
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) sum[i] = Quads::splat(i);
  Quads value = Quads::splat(0x00030001);
  const Quads weight = Quads::splat(0x00020001);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) {
#if defined(__SSE2__)
      asm volatile("" : "+x"(value.v));  // as if it were another each time: equal products would be computed once
#endif
      sum[i] = Quads::pairs_add(value, weight, sum[i]);
    }
  }
  int32_t lanes[Quads::kLanes], total = 0;
  for (int i = 0; i < kSums; ++i) {
    sum[i].store(lanes);
    total ^= lanes[0];
  }
  *sink = static_cast<float>(total);
  return rounds * kSums * Quads::kLanes * 2;
}

}  // namespace
}  // namespace fct
