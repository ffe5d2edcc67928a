// Full-ranking evaluation of a gallery that is re-embedded step by step: what `rank` would say at every point of the
// curve, from one look at each score.
#pragma once

#include <cstdint>

#include "core/rank.hpp"

namespace fct {

struct CurveResult {
  int64_t* first_rank;        // [points, queries], 1 = best; 0 where a query has no positive
  double* average_precision;  // [points, queries], 0 where a query has no positive
};

struct CurveCall {
  MatrixView queries;
  MatrixView before;           // the gallery before it is re-embedded
  MatrixView after;            // the same rows re-embedded
  const int32_t* replaced_at;  // [gallery rows], in [0, points]: at this point and later, row j is after[j]
  int32_t points = 1;
  Metric metric = Metric::cosine;
  Positives positives{};
  CurveResult result{};
  int threads = 1;
};

// Point p is `rank` over the gallery whose row j is after[j] where replaced_at[j] <= p, else before[j]: same bits, with
// the same rules for ties and NaN. Work: two scores a (query, row) and one search of each among the query's positives,
// for any number of points. Memory: both galleries packed, two strips of scores a thread, and points x 8 bytes for each
// positive of a query. Galleries hold fewer than 2^31 rows.
void rank_curve(CpuLevel level, const CurveCall& call, const StopFn& stop = {});

}  // namespace fct
