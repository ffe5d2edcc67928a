// A row that a search may return, and the total order of results.
#pragma once

#include <cmath>
#include <cstdint>

namespace fct {

struct Candidate {
  float score;
  int64_t id;
};

// Higher score, then lower id; NaN after everything.
inline bool better(const Candidate& a, const Candidate& b) {
  const bool a_nan = std::isnan(a.score);
  const bool b_nan = std::isnan(b.score);
  if (a_nan != b_nan) return b_nan;
  if (!a_nan && a.score != b.score) return a.score > b.score;
  return a.id < b.id;
}

}  // namespace fct
