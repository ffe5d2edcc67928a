// Seeds as exact keys, the start of a selection that carries on a result over earlier pieces of the gallery.
#pragma once

#include "cuda/topk/order.hpp"
#include "cuda/topk/rows.hpp"

namespace fct::cuda::topk {

struct SeedArgs {
  const float* scores;         // [.., k], as the user sees them
  const uint32_t* query_list;  // which queries, or null for all in order
  int64_t query_count;
  int32_t k;
  int64_t stripes;
  Key* lists;   // [query_count, stripes, k]; seeds go to each query's first stripe
  Key* pivots;  // [query_count, stripes]
};

template <Metric metric>
FCT_DEVICE void seed_body(const SeedArgs& args, unsigned char*) {
  const int64_t place = block_index();
  const int64_t query = args.query_list != nullptr ? args.query_list[place] : place;
  constexpr float kSign = metric == Metric::l2 ? -1.0f : 1.0f;
  for (int i = thread_index(); i < args.k; i += block_threads()) {
    const Key key = key_of(kSign * args.scores[query * args.k + i], static_cast<uint32_t>(i));
    args.lists[place * args.stripes * args.k + i] = key;
    if (i == args.k - 1) args.pivots[place * args.stripes] = key;
  }
}

}  // namespace fct::cuda::topk
