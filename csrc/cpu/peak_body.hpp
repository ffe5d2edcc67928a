// What the units of this level can do at most: sums that never leave their registers. For benchmarks alone.
#pragma once

#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

// Runs `rounds` rounds of multiply-adds over Vec and returns how many were done; `sink` keeps them from being left out.
int64_t peak(int64_t rounds, float* sink) {
  constexpr int kSums = Vec::kTileRows * Vec::kTilePanels * kPanelWidth / Vec::kLanes;
  Vec sum[kSums];
  // Each begins elsewhere: equal sums would be computed once.
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) sum[i] = Vec::splat(static_cast<float>(i));
  const Vec a = Vec::splat(0.5f), b = Vec::splat(1e-4f);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) sum[i] = Vec::mul_add(a, b, sum[i]);
  }
  Vec total = sum[0];
#pragma GCC unroll 32
  for (int i = 1; i < kSums; ++i) total = total + sum[i];
  float lanes[Vec::kLanes];
  total.store(lanes);
  *sink = lanes[0];
  return rounds * kSums * Vec::kLanes;
}

}  // namespace
}  // namespace fct
