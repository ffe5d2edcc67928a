// An evaluation, launch by launch, over whatever can launch kernels: a CUDA stream (rank.cu) or the shim (tests).
//
// A Device has
//     launch<Kernel>(blocks, shared_bytes, args)    in order with all before
//     zero(pointer, bytes)                          likewise
//     upload(target, source, bytes)                 likewise; the source may go when it returns
//     download(target, source, bytes)               waits for all before
//     pause()                                       waits for all before, and throws where the caller wants to stop
// and throws where one fails.
//
// Queries go in blocks, the gallery in chunks. Of each block: scores -> the keys of its positives; these sorted; scores
// again, where the gallery was more than one chunk -> what reaches each positive; averages. The scores are the search's
// exact ones (topk/rows.hpp), which are the CPU's.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda/rank/kernels.hpp"
#include "cuda/rank/plan.hpp"

namespace fct::cuda::rank {

// Queries and gallery on the device, positives and result on the host.
struct Call {
  MatrixView queries;
  MatrixView gallery;
  Metric metric = Metric::cosine;
  Positives positives{};
  RankResult result{};
  unsigned char* scratch = nullptr;  // Plan::scratch_bytes, at a multiple of 256
};

template <typename Device>
class Ranking {
 public:
  Ranking(Device& device, const Plan& plan, const Call& call)
      : device_(device),
        plan_(plan),
        call_(call),
        scratch_(place_scratch(plan, call.gallery.rows, call.gallery.cols, call.scratch)),
        cols_(static_cast<int32_t>(call.gallery.cols)) {}

  void run() {
    const std::vector<uint32_t> class_rows(call_.positives.class_rows, call_.positives.class_rows + call_.gallery.rows);
    upload(scratch_.class_rows, class_rows);
    for (int64_t first = 0; first < call_.queries.rows;) {
      const int64_t end = block_end(plan_, call_.positives, call_.queries.rows, first);
      rank_block(first, end - first);
      first = end;
    }
  }

 private:
  static constexpr int64_t kRowBlocks = 2048;  // blocks of the row kernel at most; each strides over the rows

  void rank_block(int64_t first, int64_t queries) {
    const int64_t keys = load_block(first, queries);
    scored_ = -1;  // these queries against any chunk
    for_chunks([&](int64_t row, int64_t rows) {
      score(queries, row, rows);
      device_.template launch<GatherKernel>(queries, 0,
                                            {.queries = scratch_.blocks,
                                             .class_rows = scratch_.class_rows,
                                             .scores = scratch_.scores,
                                             .score_stride = plan_.chunk_rows,
                                             .first_row = row,
                                             .rows = rows,
                                             .keys = scratch_.keys});
    });
    device_.template launch<SortKernel>(queries, SortBlock::kSharedBytes,
                                        {.queries = scratch_.blocks, .keys = scratch_.keys});
    device_.zero(scratch_.reaching, keys * static_cast<int64_t>(sizeof(uint32_t)));
    device_.zero(scratch_.ahead, queries * static_cast<int64_t>(sizeof(uint32_t)));
    for_chunks([&](int64_t row, int64_t rows) {
      score(queries, row, rows);
      device_.template launch<CountKernel>(queries * plan_.stripes, CountBlock::kSharedBytes,
                                           {.queries = scratch_.blocks,
                                            .keys = scratch_.keys,
                                            .scores = scratch_.scores,
                                            .score_stride = plan_.chunk_rows,
                                            .first_row = row,
                                            .rows = rows,
                                            .stripes = plan_.stripes,
                                            .reaching = scratch_.reaching,
                                            .ahead = scratch_.ahead});
    });
    constexpr int64_t kWarps = kPrecisionThreads / kWarpLanes;
    device_.template launch<PrecisionKernel>((queries + kWarps - 1) / kWarps, 0,
                                             {.queries = scratch_.blocks,
                                              .query_count = queries,
                                              .keys = scratch_.keys,
                                              .reaching = scratch_.reaching,
                                              .ahead = scratch_.ahead,
                                              .first_rank = scratch_.first_rank,
                                              .average_precision = scratch_.average_precision,
                                              .positives = scratch_.positives});
    const int64_t bytes = queries * static_cast<int64_t>(sizeof(int64_t));
    device_.download(call_.result.first_rank + first, scratch_.first_rank, bytes);
    device_.download(call_.result.average_precision + first, scratch_.average_precision, bytes);
    device_.download(call_.result.positives + first, scratch_.positives, bytes);
  }

  // Returns the keys of the block.
  int64_t load_block(int64_t first, int64_t queries) {
    std::vector<QueryPositives> block;
    int64_t keys = 0;
    for (int64_t q = first; q < first + queries; ++q) {
      const int64_t count = class_size(call_.positives, q);
      const int64_t c = call_.positives.query_classes[q];
      block.push_back({.class_begin = c < 0 ? 0 : call_.positives.class_starts[c],
                       .keys_begin = keys,
                       .count = count,
                       .self = call_.positives.exclude_self ? q : -1});
      keys += count;
    }
    upload(scratch_.blocks, block);
    load_rows(call_.queries, first, queries, scratch_.queries);
    return keys;
  }

  template <typename Work>
  void for_chunks(Work work) {
    for (int64_t row = 0; row < call_.gallery.rows; row += plan_.chunk_rows) {
      work(row, std::min(plan_.chunk_rows, call_.gallery.rows - row));
      device_.pause();
    }
  }

  // The scores of the block against a chunk, unless they are there.
  void score(int64_t queries, int64_t row, int64_t rows) {
    if (row == scored_) return;
    topk::Rows<float> gallery{reinterpret_cast<const float*>(call_.gallery.row(row)), rows, call_.gallery.row_stride,
                              cols_};
    if (plan_.copied) {
      if (row != copied_) load_rows(call_.gallery, row, rows, scratch_.gallery);
      copied_ = row;
      gallery = {scratch_.gallery, rows, cols_, cols_};
    }
    if (call_.metric == Metric::l2) {
      launch_score<topk::Metric::l2>(queries, gallery);
    } else {
      launch_score<topk::Metric::inner_product>(queries, gallery);
    }
    scored_ = row;
  }

  template <topk::Metric metric>
  void launch_score(int64_t queries, const topk::Rows<float>& gallery) {
    using Tile = topk::ScoreExactTile;
    const int64_t query_tiles = (queries + Tile::kQueries - 1) / Tile::kQueries;
    const int64_t row_tiles = (gallery.rows + Tile::kRows - 1) / Tile::kRows;
    device_.template launch<topk::ScoreExactKernel<metric, float>>(query_tiles * row_tiles, Tile::kSharedBytes,
                                                                   {.queries = scratch_.queries,
                                                                    .query_list = nullptr,
                                                                    .query_count = queries,
                                                                    .gallery = gallery,
                                                                    .scales = nullptr,
                                                                    .scores = scratch_.scores,
                                                                    .score_stride = plan_.chunk_rows});
  }

  // Rows as they are scored: float32, for the cosine at unit norm.
  void load_rows(const MatrixView& source, int64_t first, int64_t rows, float* target) {
    if (call_.metric == Metric::cosine) {
      load_rows_of<topk::Metric::cosine>(source, first, rows, target);
    } else {
      load_rows_of<topk::Metric::inner_product>(source, first, rows, target);
    }
  }

  template <topk::Metric metric>
  void load_rows_of(const MatrixView& source, int64_t first, int64_t rows, float* target) {
    if (source.dtype == Dtype::f32) launch_rows<metric, float>(source, first, rows, target);
    if (source.dtype == Dtype::f16) launch_rows<metric, Half>(source, first, rows, target);
    if (source.dtype == Dtype::bf16) launch_rows<metric, Bfloat>(source, first, rows, target);
  }

  template <topk::Metric metric, typename T>
  void launch_rows(const MatrixView& source, int64_t first, int64_t rows, float* target) {
    topk::RowsArgs<T, Half> args{};
    args.source = {reinterpret_cast<const T*>(source.row(first)), rows, source.row_stride, cols_};
    args.exact = target;
    const int64_t warps = topk::kRowThreads / kWarpLanes;
    device_.template launch<topk::RowsKernel<metric, T, Half>>(std::min((rows + warps - 1) / warps, kRowBlocks), 0,
                                                               args);
  }

  template <typename T>
  void upload(T* target, const std::vector<T>& source) {
    device_.upload(target, source.data(), static_cast<int64_t>(source.size() * sizeof(T)));
  }

  Device& device_;
  const Plan& plan_;
  const Call& call_;
  const Scratch scratch_;
  const int32_t cols_;
  int64_t scored_ = -1;  // first row of the chunk whose scores are there, and of the one whose copy is
  int64_t copied_ = -1;
};

// `plan` is make_plan's for this call's shape and positives.
template <typename Device>
void rank(Device& device, const Plan& plan, const Call& call) {
  Ranking<Device>(device, plan, call).run();
}

}  // namespace fct::cuda::rank
