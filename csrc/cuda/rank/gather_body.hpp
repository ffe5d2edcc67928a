// The keys of each query's positives, out of a chunk of scores. A block a query.
#pragma once

#include "cuda/rank/order.hpp"
#include "cuda/simt/simt.hpp"

namespace fct::cuda::rank {

struct GatherArgs {
  const QueryPositives* queries;
  const uint32_t* class_rows;
  const float* scores;  // [queries, score_stride], of gallery rows [first_row, first_row + rows)
  int64_t score_stride;
  int64_t first_row;
  int64_t rows;
  Key* keys;
};

// The first of `count` ascending rows that is not below `row`.
FCT_DEVICE int64_t lower_bound(const uint32_t* rows, int64_t count, int64_t row) {
  int64_t low = 0;
  int64_t high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (rows[middle] < row) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

FCT_DEVICE void gather_body(const GatherArgs& args, unsigned char*) {
  const QueryPositives query = args.queries[block_index()];
  const uint32_t* const rows = args.class_rows + query.class_begin;
  const float* const scores = args.scores + block_index() * args.score_stride;
  const int64_t last_row = args.first_row + args.rows;
  const int64_t first = lower_bound(rows, query.count, args.first_row);
  for (int64_t i = first + thread_index(); i < query.count && rows[i] < last_row; i += kGatherThreads) {
    const int64_t row = rows[i];
    args.keys[query.keys_begin + i] = row == query.self ? kNoKey : rank_key(scores[row - args.first_row], row);
  }
}

}  // namespace fct::cuda::rank
