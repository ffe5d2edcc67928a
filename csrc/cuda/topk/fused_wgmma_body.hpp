// Coarse scores and selection in one pass on sm_90a: what fused_body.hpp does, by TMA and wgmma. Same keys, same lists.
//
// A block holds 128 queries in shared memory. One warpgroup loads: a stripe's tiles of 128 gallery rows come by TMA, in
// slabs of 64 columns, through a ring of stages; their facts through a ring of their own, since they are needed longer.
// Two warpgroups consume, each with 64 of the queries: a warpgroup multiplies them with the whole tile (wgmma m64n128),
// then compares and appends from its registers while the other's products run (wgmma_pipeline.hpp). Queries too wide to
// stay come slab by slab beside the rows, and tiles have 256 rows (m64n256).
//
// Lists, buffers and thresholds belong to a warp and its 16 queries alone (stripe.hpp).
#pragma once

#include "cuda/simt/hopper.hpp"
#include "cuda/topk/stripe.hpp"
#include "cuda/topk/wgmma_pipeline.hpp"

namespace fct::cuda::topk {

struct FusedWgmmaArgs {
  TensorMap queries;  // boxes of 128 rows
  TensorMap gallery;  // boxes of a tile's rows
  TensorMap facts;    // float32 [rows / 16, 32]
  const QueryFacts* query_facts;
  int64_t query_count;
  int64_t rows;
  uint32_t first_ordinal;
  int32_t kept;
  int32_t slabs;
  int32_t stages;
  int64_t stripes;
  Key* lists;  // [queries, stripes, kept], descending; carried on from launch to launch
};

template <typename Tile>
struct FusedWgmmaBarriers {
  Mbarrier full[Tile::kMostStages];
  Mbarrier empty[Tile::kMostStages];
  Mbarrier facts_empty[Tile::kFactStages];  // full with the tile's first slab
  Mbarrier queries;
  Mbarrier turn[Tile::kConsumers];
};

template <typename Tile>
struct FusedWgmmaShared {
  unsigned char* queries;
  unsigned char* stages;  // rows first
  unsigned char* facts;
  Key* buffers;
  FusedWgmmaBarriers<Tile>* barriers;

  FCT_DEVICE static FusedWgmmaShared at(unsigned char* shared, int slabs, int stages) {
    static_assert(sizeof(FusedWgmmaBarriers<Tile>) <= Tile::kBarriers * 8);
    unsigned char* const ring = shared + Tile::query_bytes(slabs * Tile::kSlabCols);
    unsigned char* const facts = ring + stages * Tile::kStageBytes;
    unsigned char* const buffers = facts + Tile::kFactStages * Tile::kFactBytes;
    return {shared, ring, facts, reinterpret_cast<Key*>(buffers),
            reinterpret_cast<FusedWgmmaBarriers<Tile>*>(buffers + Tile::kBufferBytes)};
  }
};

// The loading side of the pipeline, by one thread.
template <bool kStreamed>
struct TileLoader {
  using Tile = FusedWgmmaTile<kStreamed>;
  const FusedWgmmaArgs& args;
  const FusedWgmmaShared<Tile>& shared;
  int first_query;
  StripeWalk walk;

  FCT_DEVICE void load_queries() {
    if (kStreamed) return;
    Mbarrier* const full = &shared.barriers->queries;
    mbarrier_arrive_expect(full, args.slabs * Tile::kQuerySlabBytes);
    for (int slab = 0; slab < args.slabs; ++slab) {
      tensor_load(shared.queries + slab * Tile::kQuerySlabBytes, args.queries, slab * Tile::kSlabCols, first_query,
                  full);
    }
  }
  FCT_DEVICE void wait_facts_empty(int place, int parity) {
    mbarrier_wait(shared.barriers->facts_empty + place, parity);
  }
  FCT_DEVICE void wait_empty(int stage, int parity) { mbarrier_wait(shared.barriers->empty + stage, parity); }
  FCT_DEVICE void fill(int stage, int slab, int facts) {
    Mbarrier* const full = shared.barriers->full + stage;
    unsigned char* const target = shared.stages + stage * Tile::kStageBytes;
    const int col = slab * Tile::kSlabCols;
    const int row = static_cast<int>(walk.first_row());
    mbarrier_arrive_expect(full, Tile::kStageBytes + (slab == 0 ? Tile::kFactBytes : 0));
    tensor_load(target, args.gallery, col, row, full);
    if (kStreamed) tensor_load(target + Tile::kRowSlabBytes, args.queries, col, first_query, full);
    if (slab == 0) {
      tensor_load(shared.facts + facts * Tile::kFactBytes, args.facts, 0, row / Tile::kFactRows, full);
    }
    if (slab + 1 == args.slabs) walk.next();
  }
};

// Facts of the rows of this thread's sums 4 p to 4 p + 3, 8 p + 2 (lane % 4) and the next: 16 bytes as the box has
// them, place ^ line of their line of 128. Written so that the lane's part takes four values, which then stay in
// registers.
FCT_DEVICE void load_facts(RowFacts (&pair)[2], const unsigned char* facts, int p) {
  const int line = p / 2;
  const int place = (p % 2 ^ line / 4 % 2) * 4;
  const int in_lane = lane_index() % 4 ^ line % 4;
  const Chunk words = *reinterpret_cast<const Chunk*>(facts + in_lane * 16 + (line * kBoxRowBytes + place * 16));
  pair[0] = {float_from_bits(words.words[0]), float_from_bits(words.words[1])};
  pair[1] = {float_from_bits(words.words[2]), float_from_bits(words.words[3])};
}

// Appends what passes the thresholds, of 128 rows of a tile: sums kFirst to kFirst + 63 of this thread, of which sum i
// is of its query i / 2 % 2 and of the tile's row wgmma_column(i).
template <int kFirst, int kSums>
FCT_DEVICE void select_scores(const FusedWgmmaArgs& args, const SelectionPlace& place, Selection<2>& selection,
                              const float (&sums)[kSums], const unsigned char* facts, int64_t first_row) {
  constexpr int kPairs = 16;
  // Mostly nothing does, which one bit a query tells.
  bool passes[2] = {false, false};
  FCT_UNROLL
  for (int p = 0; p < kPairs; ++p) {
    RowFacts rows[2];
    load_facts(rows, facts, kFirst / 4 + p);
    FCT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float bound =
          fmaf(sums[kFirst + 4 * p + i] * selection.factor[i / 2], rows[i % 2].factor, rows[i % 2].offset);
      passes[i / 2] |= !(bound < selection.threshold[i / 2]);  // NaN passes: below it is told apart
    }
  }
  FCT_UNROLL
  for (int q = 0; q < 2; ++q) {
    if (ballot(passes[q]) == 0) continue;
    uint32_t passing = 0;
    FCT_UNROLL
    for (int p = 0; p < kPairs; ++p) {
      RowFacts rows[2];
      load_facts(rows, facts, kFirst / 4 + p);
      FCT_UNROLL
      for (int i = 0; i < 2; ++i) {
        const float bound =
            fmaf(sums[kFirst + 4 * p + 2 * q + i] * selection.factor[q], rows[i].factor, rows[i].offset);
        if (!(bound < selection.threshold[q])) passing |= 1u << (2 * p + i);
      }
    }
    while (ballot(passing != 0) != 0) {
      const int r = lowest_bit(passing);
      float product = 0.0f;
      FCT_UNROLL
      for (int i = 0; i < 2 * kPairs; ++i) {  // registers have no index
        product = i == r ? sums[kFirst + i / 2 * 4 + 2 * q + i % 2] : product;
      }
      const int p = kFirst / 4 + (r < 0 ? 0 : r / 2);
      RowFacts rows[2];
      load_facts(rows, facts, p);
      const float score = coarse_score(product, selection.factor[q], r % 2 == 0 ? rows[0] : rows[1]);
      const int64_t row = first_row + wgmma_column(4 * p + r % 2);
      const Key key = key_of(score, args.first_ordinal + static_cast<uint32_t>(row));
      selection.offer(place, q, key, r >= 0 && row < args.rows);
      passing &= passing - 1;
    }
  }
}

// The consuming side, by a warpgroup; arrivals are each warp's.
template <typename Operand, bool kStreamed>
struct TileConsumer {
  using Tile = FusedWgmmaTile<kStreamed>;
  const FusedWgmmaArgs& args;
  const FusedWgmmaShared<Tile>& shared;
  StripeWalk walk;
  const SelectionPlace& place;
  Selection<2>& selection;
  float (&sums)[Tile::kRows / 2];
  int consumer;
  uint64_t queries;  // descriptors: this consumer's of slab 0, or of stage 0
  uint64_t stages;

  FCT_DEVICE void arrive(Mbarrier* barrier) {
    if (lane_index() == 0) mbarrier_arrive(barrier);
  }
  FCT_DEVICE void wait_turn(int parity) { mbarrier_wait(shared.barriers->turn + consumer, parity); }
  FCT_DEVICE void pass_turn() { arrive(shared.barriers->turn + (consumer ^ 1)); }
  FCT_DEVICE void wait_full(int stage, int parity) { mbarrier_wait(shared.barriers->full + stage, parity); }
  FCT_DEVICE void release(int stage) { arrive(shared.barriers->empty + stage); }
  FCT_DEVICE void multiply(int stage, int slab) {
    const uint64_t in_ring = static_cast<uint64_t>(stage) * (Tile::kStageBytes / 16);
    const uint64_t a = queries + (kStreamed ? in_ring : static_cast<uint64_t>(slab) * (Tile::kQuerySlabBytes / 16));
    const uint64_t b = stages + in_ring;
    wgmma_fence();
    FCT_UNROLL
    for (int i = 0; i < kBoxRowBytes / 32; ++i) {
      wgmma(Operand{}, sums, wgmma_advance(a, 32 * i), wgmma_advance(b, 32 * i), slab > 0 || i > 0);
    }
    wgmma_commit();
  }
  FCT_DEVICE void wait_products_but_newest() { wgmma_wait<1>(); }
  FCT_DEVICE void wait_products() { wgmma_wait<0>(sums); }
  FCT_DEVICE void select(int facts) {
    const unsigned char* const row_facts = shared.facts + facts * Tile::kFactBytes;
    select_scores<0>(args, place, selection, sums, row_facts, walk.first_row());
    if constexpr (kStreamed) select_scores<64>(args, place, selection, sums, row_facts, walk.first_row());
    walk.next();
  }
  FCT_DEVICE void release_facts(int facts) {
    sync_warp();  // all lanes have read them
    arrive(shared.barriers->facts_empty + facts);
  }
};

// By one warpgroup.
template <typename Operand, bool kStreamed>
FCT_DEVICE void consume_tiles(const FusedWgmmaArgs& args, const FusedWgmmaShared<FusedWgmmaTile<kStreamed>>& shared,
                              int64_t first_query, int consumer, const StripeWalk& walk) {
  using Tile = FusedWgmmaTile<kStreamed>;
  const int warp_query = consumer * 64 + warp_index() % 4 * 16;
  const SelectionPlace place{args.query_facts, first_query + warp_query,
                             args.query_count, args.lists,
                             walk.stripe,      args.stripes,
                             args.kept,        shared.buffers + warp_query * kBufferKeys};
  Selection<2> selection;
  selection.begin(place);
  float sums[Tile::kRows / 2];
  const unsigned char* const queries = kStreamed ? shared.stages + Tile::kRowSlabBytes : shared.queries;
  TileConsumer<Operand, kStreamed> hardware{args,
                                            shared,
                                            walk,
                                            place,
                                            selection,
                                            sums,
                                            consumer,
                                            wgmma_descriptor(queries + consumer * 64 * kBoxRowBytes),
                                            wgmma_descriptor(shared.stages)};
  if (!kStreamed) mbarrier_wait(&shared.barriers->queries, 0);
  consume_stripe({args.stages, Tile::kFactStages, args.slabs}, walk.tiles, consumer, hardware);
  selection.end(place);
}

template <typename Operand, bool kStreamed>
FCT_DEVICE void fused_wgmma_body(const FusedWgmmaArgs& args, unsigned char* shared) {
  using Tile = FusedWgmmaTile<kStreamed>;
  constexpr int kConsumerWarps = kWarpgroupThreads / kWarpLanes;
  const auto parts = FusedWgmmaShared<Tile>::at(shared, args.slabs, args.stages);
  if (thread_index() == 0) {
    FusedWgmmaBarriers<Tile>& barriers = *parts.barriers;
    for (int s = 0; s < args.stages; ++s) {
      mbarrier_init(barriers.full + s, 1);
      mbarrier_init(barriers.empty + s, Tile::kConsumers * kConsumerWarps);
    }
    for (int s = 0; s < Tile::kFactStages; ++s) {
      mbarrier_init(barriers.facts_empty + s, Tile::kConsumers * kConsumerWarps);
    }
    mbarrier_init(&barriers.queries, 1);
    for (int c = 0; c < Tile::kConsumers; ++c) mbarrier_init(barriers.turn + c, kConsumerWarps);
    mbarrier_publish();
  }
  sync_block();
  const uint32_t query_tiles = static_cast<uint32_t>((args.query_count + Tile::kQueries - 1) / Tile::kQueries);
  const uint32_t block = static_cast<uint32_t>(block_index());
  const int64_t first_query = block % query_tiles * int64_t{Tile::kQueries};
  const StripeWalk walk = StripeWalk::of(args.rows, Tile::kRows, block / query_tiles, args.stripes);
  const int warpgroup = thread_index() / kWarpgroupThreads;
  if (warpgroup == 0) {
    give_registers<40>();
    if (thread_index() != 0) return;
    TileLoader<kStreamed> hardware{args, parts, static_cast<int>(first_query), walk};
    hardware.load_queries();
    load_stripe({args.stages, Tile::kFactStages, args.slabs}, walk.tiles, hardware);
  } else {
    take_registers<232>();
    consume_tiles<Operand, kStreamed>(args, parts, first_query, warpgroup - 1, walk);
  }
}

}  // namespace fct::cuda::topk
