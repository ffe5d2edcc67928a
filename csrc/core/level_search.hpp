// Counting scores against the sorted scores of a query's positives: which of them does a score reach first?
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace fct {

// Finds the first of some falling levels that a score reaches. A grid over their range narrows it down to a level or
// two in most cases; what is left is a binary search, so that no spread of the levels is slow.
class LevelSearch {
 public:
  // levels [count], count >= 1, falling and distinct; they must stay where they are.
  void prepare(const float* levels, int64_t count) {
    levels_ = levels;
    int64_t cells = kMinCells;
    while (cells < kMaxCells && cells < kCellsPerLevel * count) cells *= 2;
    last_cell_ = static_cast<float>(cells - 1);
    scale_ = last_cell_ / (levels[0] - levels[count - 1]);
    if (!std::isfinite(scale_)) scale_ = 0.0f;           // one level, or a range beyond float: all in one cell
    first_.resize(static_cast<std::size_t>(cells + 1));  // no allocation after the largest
    int64_t cell = 0;
    for (int64_t i = 0; i < count; ++i) {
      for (const int64_t end = cell_of(levels[i]); cell <= end; ++cell) first_[cell] = static_cast<int32_t>(i);
    }
    for (; cell <= cells; ++cell) first_[cell] = static_cast<int32_t>(count - 1);
  }

  // score >= the lowest level, and no NaN.
  int64_t operator()(float score) const {
    const int32_t cell = cell_of(score);
    const float* base = levels_ + first_[cell];
    for (int32_t left = first_[cell + 1] - first_[cell] + 1; left > 1;) {
      const int32_t half = left / 2;
      base += base[half - 1] > score ? half : 0;
      left -= half;
    }
    return base - levels_;
  }

 private:
  static constexpr int64_t kMinCells = 64;
  static constexpr int64_t kMaxCells = 16384;
  static constexpr int64_t kCellsPerLevel = 8;

  // Never falls while the score falls, rounding included: levels of earlier cells are above it, of later ones below.
  int32_t cell_of(float score) const {
    const float at = (levels_[0] - score) * scale_;
    return static_cast<int32_t>(std::min(at > 0.0f ? at : 0.0f, last_cell_));
  }

  const float* levels_ = nullptr;
  float scale_ = 0.0f;
  float last_cell_ = 0.0f;
  std::vector<int32_t> first_;  // [cells + 1]: the first level of this cell or a later one
};

}  // namespace fct
