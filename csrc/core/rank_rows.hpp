// What rank and rank_curve do alike: how many queries are scored at a time, which rows are a query's positives, and
// which rows reach a score. NaN counts as -inf.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/rank.hpp"

namespace fct {

constexpr float kWorstScore = -std::numeric_limits<float>::infinity();

inline float number(float score) { return std::isnan(score) ? kWorstScore : score; }

// Queries whose scores, in rows of `strip_stride`, a thread holds at a time.
inline int64_t strip_queries(int64_t strip_stride) {
  constexpr int64_t kStripBytes = int64_t{8} << 20;
  constexpr int64_t kFewest = 6;  // a full register tile
  constexpr int64_t kMost = 48;
  return std::clamp(kStripBytes / (4 * strip_stride), kFewest, kMost);
}

// The row that is left out of a query's gallery, or -1.
inline int64_t excluded_row(const Positives& positives, int64_t query) { return positives.exclude_self ? query : -1; }

// visit(row) for each positive of a query, ascending.
template <typename Visit>
void for_each_positive(const Positives& positives, int64_t query, Visit visit) {
  const int64_t c = positives.query_classes[query];
  if (c < 0) return;
  for (int64_t i = positives.class_starts[c]; i < positives.class_starts[c + 1]; ++i) {
    const int64_t row = positives.class_rows[i];
    if (row != excluded_row(positives, query)) visit(row);
  }
}

// Rows whose score is at least some lowest one; keeps its working memory.
class ReachingRows {
 public:
  explicit ReachingRows(const KernelTable& kernels) : kernels_(kernels), hits_(kFilterSpan) {}

  // visit(score, row) for each, ascending, but for the excluded row, whose score is overwritten.
  template <typename Visit>
  void visit(float* scores, int64_t rows, float lowest, int64_t excluded, Visit visit) {
    if (lowest == kWorstScore) {  // everything reaches it; the filter below is strict
      for (int64_t row = 0; row < rows; ++row) {
        if (row != excluded) visit(number(scores[row]), row);
      }
      return;
    }
    if (excluded >= 0) scores[excluded] = std::numeric_limits<float>::quiet_NaN();  // passes no filter
    const float below = std::nextafter(lowest, kWorstScore);
    for (int64_t start = 0; start < rows; start += kFilterSpan) {
      const FilterArgs args{.scores = scores + start,
                            .count = std::min(kFilterSpan, rows - start),
                            .threshold = below,
                            .positions = hits_.data()};
      const int64_t found = kernels_.filter(&args);
      for (int64_t i = 0; i < found; ++i) visit(scores[start + hits_[i]], start + hits_[i]);
    }
  }

 private:
  static constexpr int64_t kFilterSpan = 4096;

  const KernelTable& kernels_;
  std::vector<int32_t> hits_;
};

}  // namespace fct
