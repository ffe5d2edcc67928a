// Coarse scores of queries x gallery rows on the tensor cores.
//
// A block of 256 threads makes a tile of 128 queries x 128 rows, eight warps as 4 x 2. Columns come in steps of 32
// through three stages of shared memory; step s + 2 is on its way while step s is multiplied. In int8 every column here
// is a pair of them.
#pragma once

#include "cuda/topk/bound.hpp"
#include "cuda/topk/operand_tile.hpp"

namespace fct::cuda::topk {

template <typename Operand>
struct ScoreHalfArgs {
  Rows<Operand> queries;
  const QueryFacts* query_facts;
  Rows<Operand> gallery;
  const RowFacts* row_facts;
  float* scores;  // [queries, score_stride]
  int64_t score_stride;
};

template <typename Operand>
FCT_DEVICE void score_half_body(const ScoreHalfArgs<Operand>& args, unsigned char* shared) {
  using Tile = ScoreHalfTile;
  const int64_t query_tiles = (args.queries.rows + Tile::kQueries - 1) / Tile::kQueries;
  const int64_t first_query = block_index() % query_tiles * Tile::kQueries;
  const int64_t first_row = block_index() / query_tiles * Tile::kRows;
  const int steps = (args.gallery.cols + Tile::kDepth - 1) / Tile::kDepth;

  const auto start = [&](int step) {  // one group a step, empty past the end, so that counting groups counts steps
    if (step < steps) {
      unsigned char* const stage = shared + step % Tile::kStages * Tile::kStageBytes;
      copy_tile<Tile::kQueries>(stage, Tile::kPitch, args.queries, first_query, step * Tile::kDepth, Tile::kDepth,
                                Tile::kThreads);
      copy_tile<Tile::kRows>(stage + Tile::kQueries * Tile::kPitch, Tile::kPitch, args.gallery, first_row,
                             step * Tile::kDepth, Tile::kDepth, Tile::kThreads);
    }
    copy_async_commit();
  };

  const int warp_query = warp_index() / 2 * kWarpQueries;
  const int warp_row = warp_index() % 2 * kWarpRows;
  WarpTile<Operand> tile;
  tile.clear();
  start(0);
  start(1);
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<Tile::kStages - 2>();
    sync_block();  // step has arrived for all, and all are done with the stage that is filled next
    start(step + Tile::kStages - 1);
    const unsigned char* const stage = shared + step % Tile::kStages * Tile::kStageBytes;
    const unsigned char* const queries = stage + warp_query * Tile::kPitch;
    const unsigned char* const rows = stage + (Tile::kQueries + warp_row) * Tile::kPitch;
    FCT_UNROLL
    for (int c = 0; c < Tile::kDepth; c += 16) {
      tile.add(queries + c * kOperandBytes, Tile::kPitch, rows + c * kOperandBytes, Tile::kPitch);
    }
  }
  copy_async_wait<0>();

  FCT_UNROLL
  for (int q = 0; q < 4; ++q) {
    const int64_t query = first_query + warp_query + query_of(q);
    if (query >= args.queries.rows) continue;
    const float factor = args.query_facts[query].factor;
    FCT_UNROLL
    for (int r = 0; r < 16; ++r) {
      const int64_t row = first_row + warp_row + row_of(r);
      if (row >= args.gallery.rows) continue;
      args.scores[query * args.score_stride + row] = coarse_score(product_of(tile, q, r), factor, args.row_facts[row]);
    }
  }
}

}  // namespace fct::cuda::topk
