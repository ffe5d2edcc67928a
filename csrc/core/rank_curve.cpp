#include "core/rank_curve.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "core/aligned_buffer.hpp"
#include "core/error.hpp"
#include "core/level_search.hpp"
#include "core/rank_rows.hpp"
#include "core/topk.hpp"

namespace fct {
namespace {

// Points [begin, end) of the curve at which a score counts.
struct Span {
  int32_t begin;
  int32_t end;
};

// The curve of one query after another; keeps its working memory between them.
//
// A positive has two scores, of which one counts at each point. The distinct ones among them, best first, cut the real
// line into bins: bin b holds the scores that reach level b but not level b - 1. Rows are counted by (bin, point at
// which they are replaced), so that sums over bins and points give, for each level at each point, how many rows reach
// it; `rank` needs no more for average precision.
class CurveRanker {
 public:
  CurveRanker(const KernelTable& kernels, const CurveCall& call)
      : call_(call),
        points_(call.points),
        stride_(call.points + 1),  // rows that are never replaced have a column of their own
        reaching_rows_(kernels),
        best_level_(static_cast<std::size_t>(points_)),
        best_row_(static_cast<std::size_t>(points_)),
        behind_(static_cast<std::size_t>(points_)),
        reaching_(static_cast<std::size_t>(points_)),
        positives_(static_cast<std::size_t>(stride_)),
        above_(static_cast<std::size_t>(points_)),
        sum_(static_cast<std::size_t>(points_)) {}

  // before, after [gallery rows]: the query's scores, which are changed.
  void run(int64_t query, float* before, float* after) {
    excluded_ = excluded_row(call_.positives, query);
    collect(query, before, after);
    if (entries_.empty()) {
      for (int32_t p = 0; p < points_; ++p) write(query, p, 0, 0.0);
      return;
    }
    find_best();
    search_.prepare(levels_.data(), static_cast<int64_t>(levels_.size()));
    counts_.assign(levels_.size() * static_cast<std::size_t>(stride_), 0);
    count_rows<false>(before);
    turn_into_changes();
    count_rows<true>(after);
    sum_up(query);
  }

 private:
  struct Entry {  // one of a positive's two scores
    float score;
    int32_t row;
    Span counts;
  };

  template <bool is_after>
  Span span_of(int64_t row) const {
    const int32_t at = call_.replaced_at[row];
    return is_after ? Span{at, points_} : Span{0, at};
  }

  void write(int64_t query, int32_t point, int64_t first_rank, double average_precision) {
    const int64_t at = point * call_.queries.rows + query;
    call_.result.first_rank[at] = first_rank;
    call_.result.average_precision[at] = average_precision;
  }

  void collect(int64_t query, const float* before, const float* after) {
    entries_.clear();
    levels_.clear();
    for_each_positive(call_.positives, query, [&](int64_t row) {
      entries_.push_back({number(before[row]), static_cast<int32_t>(row), span_of<false>(row)});
      entries_.push_back({number(after[row]), static_cast<int32_t>(row), span_of<true>(row)});
    });
    std::sort(entries_.begin(), entries_.end(),
              [](const Entry& a, const Entry& b) { return a.score != b.score ? a.score > b.score : a.row < b.row; });
    for (const Entry& entry : entries_) {
      if (levels_.empty() || entry.score != levels_.back()) levels_.push_back(entry.score);
    }
  }

  // For each point, the level of the best positive and the lowest row that has it.
  void find_best() {
    std::fill(best_level_.begin(), best_level_.end(), -1);
    std::fill(behind_.begin(), behind_.end(), 0);
    int32_t missing = points_;
    int32_t level = 0;
    for (const Entry& entry : entries_) {
      if (missing == 0) break;
      if (entry.score != levels_[static_cast<std::size_t>(level)]) ++level;
      for (int32_t p = entry.counts.begin; p < entry.counts.end; ++p) {
        if (best_level_[p] >= 0) continue;
        best_level_[p] = level;
        best_row_[p] = entry.row;
        --missing;
      }
    }
    last_best_level_ = level;
  }

  template <bool is_after>
  void count_rows(float* scores) {
    reaching_rows_.visit(scores, call_.before.rows, levels_.back(), excluded_,
                         [this](float score, int64_t row) { count<is_after>(score, row); });
  }

  // Adds a score that reaches the lowest level to its bin.
  template <bool is_after>
  void count(float score, int64_t row) {
    const int64_t bin = search_(score);
    ++counts_[static_cast<std::size_t>(bin * stride_ + call_.replaced_at[row])];
    if (bin <= last_best_level_ && score == levels_[bin]) count_tie(bin, row, span_of<is_after>(row));
  }

  // Equal scores stand in row order: rows after the best positive do not stand before it.
  void count_tie(int64_t bin, int64_t row, Span counts) {
    for (int32_t p = counts.begin; p < counts.end; ++p) behind_[p] += best_level_[p] == bin && row > best_row_[p];
  }

  // A row with its old score counts from point 0 until it is replaced: as changes from point to point, + 1 and - 1.
  void turn_into_changes() {
    for (std::size_t first = 0; first < counts_.size(); first += static_cast<std::size_t>(stride_)) {
      int32_t* const bin = counts_.data() + first;
      int32_t total = 0;
      for (int32_t p = 0; p < stride_; ++p) {
        total += bin[p];
        bin[p] = -bin[p];
      }
      bin[0] += total;
    }
  }

  void sum_up(int64_t query) {
    std::fill(reaching_.begin(), reaching_.end(), 0);
    std::fill(positives_.begin(), positives_.end(), 0);
    std::fill(above_.begin(), above_.end(), 0);
    std::fill(sum_.begin(), sum_.end(), 0.0);
    const int32_t* bin = counts_.data();
    std::size_t next = 0;
    for (std::size_t level = 0; level < levels_.size(); ++level, bin += stride_) {
      int32_t last = 0;  // no positive of this level counts from here on
      for (; next < entries_.size() && entries_[next].score == levels_[level]; ++next) {
        ++positives_[entries_[next].counts.begin];
        --positives_[entries_[next].counts.end];
        last = std::max(last, entries_[next].counts.end);
      }
      int32_t change = 0;
      for (int32_t p = 0; p < points_; ++p) {
        change += bin[p];
        reaching_[p] += change;
      }
      int32_t positives = 0;
      for (int32_t p = 0; p < last; ++p) {
        positives += positives_[p];
        if (positives == above_[p]) continue;
        sum_[p] += static_cast<double>(positives - above_[p]) * static_cast<double>(positives) /
                   static_cast<double>(reaching_[p]);
        if (above_[p] == 0) write(query, p, reaching_[p] - behind_[p], 0.0);
        above_[p] = positives;
      }
    }
    for (int32_t p = 0; p < points_; ++p) {
      call_.result.average_precision[p * call_.queries.rows + query] = sum_[p] / static_cast<double>(above_[p]);
    }
  }

  const CurveCall& call_;
  int32_t points_;
  int64_t stride_;
  int64_t excluded_ = -1;
  std::vector<Entry> entries_;  // best first, then lower row
  std::vector<float> levels_;   // their distinct scores
  LevelSearch search_;
  std::vector<int32_t> counts_;  // [levels, points + 1]
  ReachingRows reaching_rows_;
  // A value a point:
  std::vector<int32_t> best_level_;
  std::vector<int32_t> best_row_;
  std::vector<int32_t> behind_;     // rows of the best positive's score that stand after it
  std::vector<int32_t> reaching_;   // rows that reach the level at hand
  std::vector<int32_t> positives_;  // changes from point to point of the positives that reach it
  std::vector<int32_t> above_;      // positives that reach the level before it
  std::vector<double> sum_;         // of average precision
  int32_t last_best_level_ = 0;
};

}  // namespace

void rank_curve(CpuLevel level, const CurveCall& call, const StopFn& stop) {
  const KernelTable& kernels = kernels_of(level);
  const int64_t rows = call.before.rows;
  const int64_t depth = call.before.cols;
  if (rows > std::numeric_limits<int32_t>::max()) throw ShapeError("a curve holds fewer than 2^31 gallery rows");
  AlignedBuffer<float> panels[2];
  for (int side = 0; side < 2; ++side) {
    panels[side].reserve(static_cast<std::size_t>(panels_of(rows) * kPanelWidth * depth));
    pack_gallery(level, side == 0 ? call.before : call.after, call.metric, panels[side].data(), call.threads, stop);
  }

  const int64_t query_stride = padded_stride(depth);
  const int64_t strip_stride = padded_stride(rows);
  const int64_t step = strip_queries(strip_stride);
  const int64_t tasks = (call.queries.rows + step - 1) / step;
  const int threads = static_cast<int>(std::clamp<int64_t>(call.threads, 1, std::max<int64_t>(tasks, 1)));
  struct Worker {
    AlignedBuffer<float> queries;
    AlignedBuffer<float> strips[2];
    CurveRanker ranker;
  };
  std::vector<Worker> workers;
  for (int slot = 0; slot < threads; ++slot) workers.push_back({{}, {}, CurveRanker(kernels, call)});
  parallel_for(
      tasks, threads,
      [&](int64_t task, int slot) {
        Worker& worker = workers[static_cast<std::size_t>(slot)];
        const int64_t first = task * step;
        const int64_t count = std::min(step, call.queries.rows - first);
        float* const queries = worker.queries.reserve(static_cast<std::size_t>(step * query_stride));
        load_rows(kernels, call.queries, call.metric, first, count, queries, query_stride);
        for (int side = 0; side < 2; ++side) {
          const TileArgs tile{.x = queries,
                              .x_stride = query_stride,
                              .rows = count,
                              .panels = panels[side].data(),
                              .panel_count = panels_of(rows),
                              .depth = depth,
                              .bias = nullptr,
                              .relu = false,
                              .product = product_of(call.metric),
                              .y = worker.strips[side].reserve(static_cast<std::size_t>(step * strip_stride)),
                              .y_stride = strip_stride};
          kernels.tile(&tile);
        }
        for (int64_t q = 0; q < count; ++q) {
          const int64_t at = q * strip_stride;
          worker.ranker.run(first + q, worker.strips[0].data() + at, worker.strips[1].data() + at);
        }
      },
      stop);
}

}  // namespace fct
