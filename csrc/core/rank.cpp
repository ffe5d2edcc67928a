#include "core/rank.hpp"

#include <algorithm>
#include <functional>
#include <vector>

#include "core/aligned_buffer.hpp"
#include "core/rank_rows.hpp"
#include "core/topk.hpp"

namespace fct {
namespace {

// Ranks one query after another; keeps its working memory between them.
//
// With the P positive scores sorted, p_0 >= p_1 >= ..., average precision is the mean over positives of
// (positives at or above) / (rows at or above): no ranking is needed, only, for each p_j, how many rows reach it.
class QueryRanker {
 public:
  QueryRanker(const KernelTable& kernels, const Positives& positives, const RankResult& result)
      : positives_(positives), result_(result), reaching_rows_(kernels) {}

  // scores [rows], which are changed.
  void run(int64_t query, float* scores, int64_t rows) {
    result_.first_rank[query] = 0;
    result_.average_precision[query] = 0.0;
    result_.positives[query] = 0;
    collect(query, scores);
    if (sorted_.empty()) return;
    reaching_.assign(sorted_.size(), 0);
    ahead_of_best_ = 0;
    reaching_rows_.visit(scores, rows, sorted_.back(), excluded_row(positives_, query),
                         [this](float score, int64_t row) { count(score, row); });
    result_.first_rank[query] = 1 + ahead_of_best_;
    result_.average_precision[query] = average_precision();
    result_.positives[query] = static_cast<int64_t>(sorted_.size());
  }

 private:
  void collect(int64_t query, const float* scores) {
    sorted_.clear();
    best_row_ = -1;
    for_each_positive(positives_, query, [&](int64_t row) {
      const float score = number(scores[row]);
      if (best_row_ < 0 || score > best_) {
        best_ = score;
        best_row_ = row;
      }
      sorted_.push_back(score);
    });
    std::sort(sorted_.begin(), sorted_.end(), std::greater<>());
  }

  // Adds the row to the first positive that it reaches; branch-free search, since the outcome is a coin toss.
  void count(float score, int64_t row) {
    const float* base = sorted_.data();
    std::size_t left = sorted_.size();
    while (left > 1) {
      const std::size_t half = left / 2;
      base += base[half - 1] > score ? half : 0;
      left -= half;
    }
    ++reaching_[static_cast<std::size_t>(base - sorted_.data())];
    ahead_of_best_ += score > best_ || (score == best_ && row < best_row_);
  }

  double average_precision() const {
    double sum = 0.0;
    int64_t rows_reaching = 0;
    for (std::size_t group = 0; group < sorted_.size();) {
      std::size_t end = group;
      while (end < sorted_.size() && sorted_[end] == sorted_[group]) rows_reaching += reaching_[end++];
      sum += static_cast<double>(end - group) * static_cast<double>(end) / static_cast<double>(rows_reaching);
      group = end;
    }
    return sum / static_cast<double>(sorted_.size());
  }

  const Positives& positives_;
  const RankResult& result_;
  ReachingRows reaching_rows_;
  std::vector<float> sorted_;      // scores of the query's positives, best first
  std::vector<int64_t> reaching_;  // rows that reach sorted_[j] but not sorted_[j - 1]
  float best_ = 0.0f;              // the best positive's score, and the lowest row that has it
  int64_t best_row_ = -1;
  int64_t ahead_of_best_ = 0;
};

}  // namespace

void rank(CpuLevel level, const RankCall& call, const StopFn& stop) {
  const KernelTable& kernels = kernels_of(level);
  const int64_t rows = call.gallery.rows;
  const int64_t depth = call.gallery.cols;
  AlignedBuffer<float> panels;
  panels.reserve(static_cast<std::size_t>(panels_of(rows) * kPanelWidth * depth));
  pack_gallery(level, call.gallery, call.metric, panels.data(), call.threads, stop);

  const int64_t strip_stride = padded_stride(rows);
  const int64_t step = strip_queries(strip_stride);
  const int64_t tasks = (call.queries.rows + step - 1) / step;
  const int threads = static_cast<int>(std::clamp<int64_t>(call.threads, 1, std::max<int64_t>(tasks, 1)));
  struct Worker {
    AlignedBuffer<float> queries;
    AlignedBuffer<float> strip;
  };
  std::vector<Worker> workers(static_cast<std::size_t>(threads));
  parallel_for(
      tasks, threads,
      [&](int64_t task, int slot) {
        const int64_t first = task * step;
        const int64_t count = std::min(step, call.queries.rows - first);
        const int64_t query_stride = padded_stride(depth);
        float* const queries = workers[slot].queries.reserve(static_cast<std::size_t>(step * query_stride));
        float* const strip = workers[slot].strip.reserve(static_cast<std::size_t>(step * strip_stride));
        load_rows(kernels, call.queries, call.metric, first, count, queries, query_stride);
        const TileArgs tile{.x = queries,
                            .x_stride = query_stride,
                            .rows = count,
                            .panels = panels.data(),
                            .panel_count = panels_of(rows),
                            .depth = depth,
                            .bias = nullptr,
                            .relu = false,
                            .product = product_of(call.metric),
                            .y = strip,
                            .y_stride = strip_stride};
        kernels.tile(&tile);
        QueryRanker ranker(kernels, call.positives, call.result);
        for (int64_t q = 0; q < count; ++q) ranker.run(first + q, strip + q * strip_stride, rows);
      },
      stop);
}

void rank_scores(CpuLevel level, const MatrixView& scores, const Positives& positives, const RankResult& result,
                 int threads, const StopFn& stop) {
  const KernelTable& kernels = kernels_of(level);
  parallel_for(
      scores.rows, threads,
      [&](int64_t query, int) {
        const float* const row = reinterpret_cast<const float*>(scores.row(query));
        std::vector<float> copy(row, row + scores.cols);
        QueryRanker(kernels, positives, result).run(query, copy.data(), scores.cols);
      },
      stop);
}

}  // namespace fct
