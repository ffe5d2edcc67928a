// First rank and average precision of each query from what was counted. A warp a query.
//
// The mean over positives of (positives at or above) / (rows at or above), equal scores together, in float64: terms are
// made side by side and added best first, one after the other, so that the sum has the bits of the CPU's
// (core/rank.cpp).
#pragma once

#include "cuda/rank/order.hpp"
#include "cuda/simt/simt.hpp"

namespace fct::cuda::rank {

struct PrecisionArgs {
  const QueryPositives* queries;
  int64_t query_count;
  const Key* keys;
  const uint32_t* reaching;
  const uint32_t* ahead;
  int64_t* first_rank;
  double* average_precision;
  int64_t* positives;
};

FCT_DEVICE void precision_body(const PrecisionArgs& args, unsigned char*) {
  const int lane = lane_index();
  const int64_t place = block_index() * (kPrecisionThreads / kWarpLanes) + warp_index();
  if (place >= args.query_count) return;
  const QueryPositives query = args.queries[place];
  const Key* const keys = args.keys + query.keys_begin;
  const uint32_t* const reaching = args.reaching + query.keys_begin;
  const int64_t positives = positives_of(keys, query.count);
  double sum = 0.0;
  uint32_t above = 0;       // rows that reach a positive of earlier steps
  int64_t group_begin = 0;  // of the equal scores that go on in this step
  for (int64_t first = 0; first < positives; first += kWarpLanes) {
    const int64_t i = first + lane;
    const bool inside = i < positives;
    uint32_t through = inside ? reaching[i] : 0;
    FCT_UNROLL
    for (int step = 1; step < kWarpLanes; step *= 2) {
      const uint32_t before = shuffle(through, lane < step ? lane : lane - step);
      if (lane >= step) through += before;
    }
    const bool ends = inside && (i + 1 == positives || reach_of(keys[i + 1]) != reach_of(keys[i]));
    const uint32_t all_ends = ballot(ends);
    const uint32_t ends_before = all_ends & lanes_below();
    const int64_t begin = ends_before == 0 ? group_begin : first + highest_bit(ends_before) + 1;
    double term = 0.0;
    if (ends) {
      term = static_cast<double>(i + 1 - begin) * static_cast<double>(i + 1) / static_cast<double>(above + through);
    }
    for (uint32_t left = all_ends; left != 0; left &= left - 1) sum += shuffle(term, lowest_bit(left));
    if (all_ends != 0) group_begin = first + highest_bit(all_ends) + 1;
    above += shuffle(through, kWarpLanes - 1);
  }
  if (lane != 0) return;
  args.first_rank[place] = positives == 0 ? 0 : 1 + static_cast<int64_t>(args.ahead[place]);
  args.average_precision[place] = positives == 0 ? 0.0 : sum / static_cast<double>(positives);
  args.positives[place] = positives;
}

}  // namespace fct::cuda::rank
