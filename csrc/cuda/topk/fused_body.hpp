// Coarse scores and selection in one pass: the score matrix never exists.
//
// A block of four warps holds 128 queries in shared memory and streams a stripe of the gallery past them, in tiles of
// 64 rows, whose columns come in steps of 64 through three stages. Each warp owns 32 queries: it scores them against
// the tile (operand_tile.hpp), compares each score with its query's threshold, a register, and appends the few that
// pass to the query's buffer; a full buffer is merged into the query's list (candidate_list.hpp), which raises the
// threshold. No score, threshold or buffer is shared between warps, so only the stages need the block's barrier.
//
// A stripe takes every stripes-th tile, and visits them in strides of about 0.62 of their number: a gallery that is
// sorted by similarity, where every row beats all before it, then looks nearly random to the thresholds. Any order
// gives the same answer, since keys decide.
#pragma once

#include "cuda/topk/operand_tile.hpp"
#include "cuda/topk/stripe.hpp"

namespace fct::cuda::topk {

template <typename Operand>
struct FusedArgs {
  Rows<Operand> queries;
  const QueryFacts* query_facts;
  Rows<Operand> gallery;
  const RowFacts* row_facts;
  uint32_t first_ordinal;
  int64_t stripes;
  int32_t kept;
  Key* lists;  // [queries, stripes, kept], descending; carried on from launch to launch
};

template <typename Operand>
FCT_DEVICE void fused_body(const FusedArgs<Operand>& args, unsigned char* shared) {
  using Tile = FusedTile;
  Key* const buffers = reinterpret_cast<Key*>(shared);
  unsigned char* const stages = shared + Tile::kBufferBytes;
  unsigned char* const facts = stages + Tile::kStages * Tile::kStageBytes;
  unsigned char* const queries = facts + Tile::kStages * Tile::kFactBytes;
  const int depth = static_cast<int>(Tile::padded_depth(args.gallery.cols));
  const int query_pitch = pitch_of(depth);

  const int64_t query_tiles = (args.queries.rows + Tile::kQueries - 1) / Tile::kQueries;
  const int64_t first_query = block_index() % query_tiles * Tile::kQueries;
  const int64_t stripe = block_index() / query_tiles;
  StripeWalk ahead = StripeWalk::of(args.gallery.rows, Tile::kRows, stripe, args.stripes);
  StripeWalk walk = ahead;

  // Steps run on from tile to tile, so that the pipeline never drains.
  const int tile_steps = depth / Tile::kDepth;
  const int64_t steps = walk.tiles * tile_steps;
  int ahead_col = 0;
  int ahead_facts = 0;
  const auto start = [&](int64_t step) {
    if (step < steps) {
      if (ahead_col == 0) {
        unsigned char* const target = facts + ahead_facts * Tile::kFactBytes;
        for (int i = thread_index(); i < Tile::kFactBytes / 16; i += Tile::kThreads) {
          const int64_t row = ahead.first_row() + 2 * i;  // two rows' facts are 16 bytes
          const int64_t left = args.gallery.rows - row;
          const int bytes = left <= 0 ? 0 : left == 1 ? 8 : 16;
          copy_async_16(target + 16 * i, bytes == 0 ? args.row_facts : args.row_facts + row, bytes);
        }
      }
      copy_tile<Tile::kRows>(stages + step % Tile::kStages * Tile::kStageBytes, Tile::kPitch, args.gallery,
                             ahead.first_row(), ahead_col, Tile::kDepth, Tile::kThreads);
      ahead_col += Tile::kDepth;
      if (ahead_col == depth) {
        ahead_col = 0;
        ahead_facts = ahead_facts + 1 == Tile::kStages ? 0 : ahead_facts + 1;
        ahead.next();
      }
    }
    copy_async_commit();
  };

  const int warp_query = warp_index() * kWarpQueries;
  const SelectionPlace place{
      args.query_facts, first_query + warp_query,          args.queries.rows, args.lists, stripe, args.stripes,
      args.kept,        buffers + warp_query * kBufferKeys};
  Selection<4> selection;
  selection.begin(place);

  const auto select = [&](const WarpTile<Operand>& tile, int64_t first_row, const RowFacts* row_facts) {
    FCT_UNROLL
    for (int q = 0; q < 4; ++q) {
      uint32_t passing = 0;
      FCT_UNROLL
      for (int r = 0; r < 16; ++r) {
        const RowFacts row = row_facts[row_of(r)];
        const float bound = fmaf(product_of(tile, q, r) * selection.factor[q], row.factor, row.offset);
        if (!(bound < selection.threshold[q])) passing |= 1u << r;  // NaN passes: below it is told apart
      }
      while (ballot(passing != 0) != 0) {
        const int r = lowest_bit(passing);
        typename WarpTile<Operand>::Sum sum = 0;
        FCT_UNROLL
        for (int i = 0; i < 16; ++i) sum = i == r ? sum_of(tile, q, i) : sum;  // registers have no index
        const int in_tile = r < 0 ? 0 : row_of(r);
        const float score = coarse_score(static_cast<float>(sum), selection.factor[q], row_facts[in_tile]);
        const int64_t row = first_row + in_tile;
        const Key key = key_of(score, args.first_ordinal + static_cast<uint32_t>(row));
        selection.offer(place, q, key, r >= 0 && row < args.gallery.rows);
        passing &= passing - 1;
      }
    }
  };

  copy_tile<Tile::kQueries>(queries, query_pitch, args.queries, first_query, 0, depth, Tile::kThreads);
  start(0);  // in one group with the queries
  start(1);
  WarpTile<Operand> tile;
  tile.clear();
  int col = 0;
  int tile_facts = 0;
  for (int64_t step = 0; step < steps; ++step) {
    copy_async_wait<Tile::kStages - 2>();
    sync_block();  // step has arrived for all, and all are done with the stage that is filled next
    start(step + Tile::kStages - 1);
    const unsigned char* const stage = stages + step % Tile::kStages * Tile::kStageBytes;
    const unsigned char* const warp_queries = queries + warp_query * query_pitch + col * kOperandBytes;
    FCT_UNROLL
    for (int c = 0; c < Tile::kDepth; c += 16) {
      tile.add(warp_queries + c * kOperandBytes, query_pitch, stage + c * kOperandBytes, Tile::kPitch);
    }
    col += Tile::kDepth;
    if (col == depth) {
      select(tile, walk.first_row(), reinterpret_cast<const RowFacts*>(facts + tile_facts * Tile::kFactBytes));
      tile.clear();
      col = 0;
      tile_facts = tile_facts + 1 == Tile::kStages ? 0 : tile_facts + 1;
      walk.next();
    }
  }
  copy_async_wait<0>();
  selection.end(place);
}

}  // namespace fct::cuda::topk
