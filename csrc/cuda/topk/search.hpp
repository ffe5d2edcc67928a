// A search, launch by launch, over whatever can launch kernels: a CUDA stream (topk.cu) or the shim (tests).
//
// A Device has
//     launch<Kernel>(blocks, shared_bytes, args)    in order with all before
//     zero(pointer, bytes)                          likewise
//     read(const uint32_t*) -> uint32_t             waits for all before
//     pace()                                        once a piece of the gallery: the host may wait here
// and throws where one fails, or where the caller wants to stop.
#pragma once

#include <algorithm>
#include <bit>
#include <type_traits>

#include "cuda/topk/kernels.hpp"
#include "cuda/topk/plan.hpp"
#include "cuda/topk/scratch.hpp"

namespace fct::cuda::topk {

// Device pointers throughout.
struct Call {
  MatrixView queries;
  MatrixView gallery;
  Metric metric = Metric::cosine;
  int64_t k = 0;
  int64_t first_id = 0;  // id of the gallery's first row
  // With `seeded`, scores and ids hold a finished result over rows of lower ids, which is carried on.
  bool seeded = false;
  float* scores = nullptr;           // [queries, k]
  int64_t* ids = nullptr;            // [queries, k]
  unsigned char* scratch = nullptr;  // Plan::scratch_bytes, at a multiple of 256
};

// What a search met, for those who watch it.
struct Outcome {
  int64_t unproved = 0;  // queries that went through the exact kernels
};

template <typename Device, Metric metric, typename Stored, typename Operand>
class Search {
 public:
  Search(Device& device, const Plan& plan, const Call& call)
      : device_(device),
        plan_(plan),
        call_(call),
        scratch_(place_scratch(plan, call.gallery.cols, call.k, call.scratch)),
        cols_(static_cast<int32_t>(call.gallery.cols)),
        operand_cols_(static_cast<int32_t>(operand_cols_of(plan, call.gallery.cols))),
        seed_count_(call.seeded ? static_cast<int32_t>(call.k) : 0) {}

  Outcome run() {
    const bool coarse = plan_.path != Path::exact;
    const int64_t step = coarse ? plan_.query_block : plan_.exact_query_block;
    for (int64_t first = 0; first < call_.queries.rows; first += step) {
      first_query_ = first;
      const int64_t queries = std::min(step, call_.queries.rows - first);
      load_queries(queries);
      if (coarse) {
        search_coarse(queries);
        const int64_t unproved = device_.read(scratch_.unproved_count);
        outcome_.unproved += unproved;
        for (int64_t u = 0; u < unproved; u += plan_.exact_query_block) {
          search_exact(scratch_.unproved + u, std::min(plan_.exact_query_block, unproved - u));
        }
      } else {
        search_exact(nullptr, queries);
      }
    }
    return outcome_;
  }

 private:
  static constexpr bool kBytes = std::is_same_v<Operand, BytePair>;
  static constexpr int64_t kRowBlocks = 2048;  // blocks of the row kernel at most; each strides over the rows

  template <typename T>
  Rows<T> rows_of(const MatrixView& view, int64_t first, int64_t rows) const {
    return {reinterpret_cast<const T*>(view.row(first)), rows, view.row_stride, cols_};
  }
  float* scores() const { return call_.scores + first_query_ * call_.k; }
  int64_t* ids() const { return call_.ids + first_query_ * call_.k; }

  double error() const {
    if constexpr (kBytes)
      return relative_error_of_bytes(cols_);
    else
      return relative_error(cols_, rounding_of(Operand{}), plan_.rounded_sides);
  }
  uint32_t* query_loss() const { return kBytes && metric == Metric::inner_product ? scratch_.query_loss : nullptr; }

  template <typename T>
  void launch_rows(const RowsArgs<T, Operand>& args) {
    const int64_t warps = kRowThreads / kWarpLanes;
    device_.template launch<RowsKernel<metric, T, Operand>>(
        std::min((args.source.rows + warps - 1) / warps, kRowBlocks), 0, args);
  }

  void load_queries(int64_t queries) {
    if constexpr (std::is_same_v<Operand, Bfloat>) return load_queries_as<Bfloat>(queries);  // see Plan::operand
    if (call_.queries.dtype == Dtype::f32) return load_queries_as<float>(queries);
    if (call_.queries.dtype == Dtype::f16) return load_queries_as<Half>(queries);
    load_queries_as<Bfloat>(queries);
  }

  template <typename Query>
  void load_queries_as(int64_t queries) {
    RowsArgs<Query, Operand> args{};
    args.source = rows_of<Query>(call_.queries, first_query_, queries);
    args.exact = scratch_.exact_queries;
    if (plan_.path != Path::exact) {
      args.packed = static_cast<Operand*>(scratch_.query_operands);
      args.packed_stride = operand_stride_of(operand_cols_);
      args.error = error();
      args.query_facts = scratch_.query_facts;
      args.seeds = call_.seeded ? scores() : nullptr;
      args.k = call_.k;
      args.query_loss = query_loss();
      if (args.query_loss != nullptr) device_.zero(args.query_loss, sizeof(uint32_t));
    }
    launch_rows(args);
  }

  void search_coarse(int64_t queries) {
    const Lists& lists = scratch_.coarse_lists;
    device_.zero(lists.stripes, lists.list_bytes);
    device_.zero(scratch_.unproved_count, sizeof(uint32_t));
    const Rows<Operand> operands{static_cast<const Operand*>(scratch_.query_operands), queries,
                                 operand_stride_of(operand_cols_), operand_cols_};
    for (int64_t first = 0; first < call_.gallery.rows; first += plan_.chunk_rows) {
      const int64_t rows = std::min(plan_.chunk_rows, call_.gallery.rows - first);
      device_.pace();
      const Rows<Operand> chunk = load_chunk(first, rows);
      if (plan_.path == Path::fused) {
        select_fused(operands, chunk, first);
      } else {
        score_tiled(operands, chunk);
        select(lists, queries, plan_.stripes, plan_.kept, scratch_.scores, plan_.chunk_rows, rows, first,
               scratch_.query_facts);
      }
    }
    merge(lists, queries, plan_.stripes, plan_.kept);
    finish<true>(nullptr, queries, lists, plan_.kept);
  }

  Rows<Operand> load_chunk(int64_t first, int64_t rows) {
    RowsArgs<Stored, Operand> args{};
    args.source = rows_of<Stored>(call_.gallery, first, rows);
    args.packed = static_cast<Operand*>(plan_.packed ? scratch_.gallery_operands : nullptr);
    args.packed_stride = operand_stride_of(operand_cols_);
    args.error = error();
    args.row_facts = scratch_.row_facts;
    args.query_loss = query_loss();
    launch_rows(args);
    if (plan_.packed) return {args.packed, rows, args.packed_stride, operand_cols_};
    return rows_of<Operand>(call_.gallery, first, rows);
  }

  void select_fused(const Rows<Operand>& queries, const Rows<Operand>& chunk, int64_t first) {
    if constexpr (std::is_same_v<Operand, Half> || std::is_same_v<Operand, Bfloat>) {
      if (plan_.wgmma && streams_queries(cols_)) return select_wgmma<true>(queries, chunk, first);
      if (plan_.wgmma) return select_wgmma<false>(queries, chunk, first);
    }
    const FusedArgs<Operand> args{.queries = queries,
                                  .query_facts = scratch_.query_facts,
                                  .gallery = chunk,
                                  .row_facts = scratch_.row_facts,
                                  .first_ordinal = static_cast<uint32_t>(first),
                                  .stripes = plan_.stripes,
                                  .kept = static_cast<int32_t>(plan_.kept),
                                  .lists = scratch_.coarse_lists.stripes};
    const int64_t query_tiles = (queries.rows + FusedTile::kQueries - 1) / FusedTile::kQueries;
    device_.template launch<FusedKernel<Operand>>(query_tiles * plan_.stripes, FusedTile::shared_bytes(operand_cols_),
                                                  args);
  }

  template <bool kStreamed>
  void select_wgmma(const Rows<Operand>& queries, const Rows<Operand>& chunk, int64_t first) {
    using Tile = FusedWgmmaTile<kStreamed>;
    const auto map_of = [](const Rows<Operand>& rows, int box_rows) {
      const int64_t stride = rows.rows > 1 ? rows.stride : operand_stride_of(rows.cols);
      return tensor_map({rows.data, rows.rows, rows.cols, stride, kOperandBytes, box_rows});
    };
    constexpr int64_t kFactCols = kBoxRowBytes / 4;
    const int64_t fact_rows = (chunk.rows + Tile::kFactRows - 1) / Tile::kFactRows;
    const FusedWgmmaArgs args{
        .queries = map_of(queries, Tile::kQueries),
        .gallery = map_of(chunk, Tile::kRows),
        .facts = tensor_map({scratch_.row_facts, fact_rows, kFactCols, kFactCols, 4, Tile::kRows / Tile::kFactRows}),
        .query_facts = scratch_.query_facts,
        .query_count = queries.rows,
        .rows = chunk.rows,
        .first_ordinal = static_cast<uint32_t>(first),
        .kept = static_cast<int32_t>(plan_.kept),
        .slabs = Tile::slabs(queries.cols),
        .stages = Tile::stages(queries.cols),
        .stripes = plan_.stripes,
        .lists = scratch_.coarse_lists.stripes};
    const int64_t query_tiles = (queries.rows + Tile::kQueries - 1) / Tile::kQueries;
    device_.template launch<FusedWgmmaKernel<Operand, kStreamed>>(query_tiles * plan_.stripes,
                                                                  Tile::shared_bytes(queries.cols, args.stages), args);
  }

  void score_tiled(const Rows<Operand>& queries, const Rows<Operand>& chunk) {
    using Tile = ScoreHalfTile;
    const ScoreHalfArgs<Operand> args{.queries = queries,
                                      .query_facts = scratch_.query_facts,
                                      .gallery = chunk,
                                      .row_facts = scratch_.row_facts,
                                      .scores = scratch_.scores,
                                      .score_stride = plan_.chunk_rows};
    const int64_t query_tiles = (queries.rows + Tile::kQueries - 1) / Tile::kQueries;
    const int64_t row_tiles = (chunk.rows + Tile::kRows - 1) / Tile::kRows;
    device_.template launch<ScoreHalfKernel<Operand>>(query_tiles * row_tiles, Tile::kSharedBytes, args);
  }

  void search_exact(const uint32_t* query_list, int64_t queries) {
    const Lists& lists = scratch_.exact_lists;
    const int64_t stripes = plan_.exact_stripes;
    device_.zero(lists.stripes, lists.list_bytes);
    if (call_.seeded) {
      device_.template launch<SeedKernel<metric>>(queries, 0,
                                                  SeedArgs{.scores = scores(),
                                                           .query_list = query_list,
                                                           .query_count = queries,
                                                           .k = static_cast<int32_t>(call_.k),
                                                           .stripes = stripes,
                                                           .lists = lists.stripes,
                                                           .pivots = lists.stripe_pivots});
    }
    for (int64_t first = 0; first < call_.gallery.rows; first += plan_.exact_chunk_rows) {
      const int64_t rows = std::min(plan_.exact_chunk_rows, call_.gallery.rows - first);
      device_.pace();
      score_exact(query_list, queries, first, rows);
      select(lists, queries, stripes, call_.k, scratch_.exact_scores, plan_.exact_chunk_rows, rows, first + seed_count_,
             nullptr);
    }
    merge(lists, queries, stripes, call_.k);
    finish<false>(query_list, queries, lists, call_.k);
  }

  void score_exact(const uint32_t* query_list, int64_t queries, int64_t first, int64_t rows) {
    using Tile = ScoreExactTile;
    const Rows<Stored> chunk = rows_of<Stored>(call_.gallery, first, rows);
    if (metric == Metric::cosine) {
      RowsArgs<Stored, Operand> args{};
      args.source = chunk;
      args.scales = scratch_.scales;
      launch_rows(args);
    }
    const ScoreExactArgs<Stored> args{.queries = scratch_.exact_queries,
                                      .query_list = query_list,
                                      .query_count = queries,
                                      .gallery = chunk,
                                      .scales = scratch_.scales,
                                      .scores = scratch_.exact_scores,
                                      .score_stride = plan_.exact_chunk_rows};
    const int64_t query_tiles = (queries + Tile::kQueries - 1) / Tile::kQueries;
    const int64_t row_tiles = (rows + Tile::kRows - 1) / Tile::kRows;
    device_.template launch<ScoreExactKernel<metric, Stored>>(query_tiles * row_tiles, Tile::kSharedBytes, args);
  }

  void select(const Lists& lists, int64_t queries, int64_t stripes, int64_t kept, const float* scores, int64_t stride,
              int64_t rows, int64_t first_ordinal, const QueryFacts* query_facts) {
    const SelectArgs args{.queries = queries,
                          .stripes = stripes,
                          .kept = static_cast<int32_t>(kept),
                          .scores = scores,
                          .score_stride = stride,
                          .width = rows,
                          .first_ordinal = static_cast<uint32_t>(first_ordinal),
                          .query_facts = query_facts,
                          .keys = nullptr,
                          .lists = lists.stripes,
                          .pivots = lists.stripe_pivots};
    device_.template launch<SelectKernel<true>>(queries * stripes, SelectBlock::shared_bytes(args.kept), args);
  }

  // The stripes' lists into one, where they are not one already.
  void merge(const Lists& lists, int64_t queries, int64_t stripes, int64_t kept) {
    if (lists.merged == lists.stripes) return;
    const SelectArgs args{.queries = queries,
                          .stripes = 1,
                          .kept = static_cast<int32_t>(kept),
                          .scores = nullptr,
                          .score_stride = 0,
                          .width = stripes * kept,
                          .first_ordinal = 0,
                          .query_facts = nullptr,
                          .keys = lists.stripes,
                          .lists = lists.merged,
                          .pivots = lists.merged_pivots};
    device_.template launch<SelectKernel<false>>(queries, SelectBlock::shared_bytes(args.kept), args);
  }

  template <bool kCoarse>
  void finish(const uint32_t* query_list, int64_t queries, const Lists& lists, int64_t kept) {
    const int64_t keys = kept + (kCoarse ? seed_count_ : 0);
    using Gallery = std::conditional_t<kCoarse, Stored, float>;  // exact keys need no rows
    const FinishArgs<Gallery> args{.queries = scratch_.exact_queries,
                                   .query_list = query_list,
                                   .query_count = queries,
                                   .gallery = rows_of<Gallery>(call_.gallery, 0, call_.gallery.rows),
                                   .query_facts = scratch_.query_facts,
                                   .keys = lists.merged,
                                   .pivots = lists.merged_pivots,
                                   .kept = static_cast<int32_t>(kept),
                                   .k = static_cast<int32_t>(call_.k),
                                   .seed_count = seed_count_,
                                   .sorted = static_cast<int32_t>(std::bit_ceil(static_cast<uint64_t>(keys))),
                                   .first_id = call_.first_id,
                                   .scores = scores(),
                                   .ids = ids(),
                                   .unproved = scratch_.unproved,
                                   .unproved_count = scratch_.unproved_count};
    device_.template launch<FinishKernel<metric, Gallery, kCoarse>>(queries, FinishBlock::shared_bytes(args.sorted),
                                                                    args);
  }

  Device& device_;
  const Plan& plan_;
  const Call& call_;
  const Scratch scratch_;
  const int32_t cols_;
  const int32_t operand_cols_;
  const int32_t seed_count_;
  int64_t first_query_ = 0;
  Outcome outcome_;
};

// int8 scores first.
template <Metric metric, typename Device>
Outcome search_bytes(Device& device, const Plan& plan, const Call& call) {
  switch (call.gallery.dtype) {
    case Dtype::f16:
      return Search<Device, metric, Half, BytePair>(device, plan, call).run();
    case Dtype::bf16:
      return Search<Device, metric, Bfloat, BytePair>(device, plan, call).run();
    default:
      return Search<Device, metric, float, BytePair>(device, plan, call).run();
  }
}

template <Metric metric, typename Device>
Outcome search_metric(Device& device, const Plan& plan, const Call& call) {
  if constexpr (metric != Metric::l2) {
    if (plan.bytes) return search_bytes<metric>(device, plan, call);
  }
  switch (call.gallery.dtype) {
    case Dtype::f16:
      return Search<Device, metric, Half, Half>(device, plan, call).run();
    case Dtype::bf16:
      if (plan.operand == Dtype::bf16) return Search<Device, metric, Bfloat, Bfloat>(device, plan, call).run();
      return Search<Device, metric, Bfloat, Half>(device, plan, call).run();
    default:
      return Search<Device, metric, float, Half>(device, plan, call).run();
  }
}

// `plan` is make_plan's for this call's shape; not in int8 for l2.
template <typename Device>
Outcome search(Device& device, const Plan& plan, const Call& call) {
  switch (call.metric) {
    case Metric::cosine:
      return search_metric<Metric::cosine>(device, plan, call);
    case Metric::inner_product:
      return search_metric<Metric::inner_product>(device, plan, call);
    default:
      return search_metric<Metric::l2>(device, plan, call);
  }
}

}  // namespace fct::cuda::topk
