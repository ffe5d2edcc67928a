// Full-ranking evaluation: for each query where its first positive stands and its average precision, no ranking stored.
#pragma once

#include <cstdint>

#include "core/rows.hpp"
#include "core/thread_pool.hpp"

namespace fct {

// Which gallery rows are positives: those that share the query's class. Classes are 0 .. classes - 1; a query's class
// may be -1, which no gallery row has. The rows of class c are class_rows[class_starts[c] .. class_starts[c + 1]),
// ascending.
struct Positives {
  const int64_t* query_classes;  // [queries]
  const int64_t* class_starts;   // [classes + 1]
  const int64_t* class_rows;     // [gallery rows]
  bool exclude_self;             // query i is gallery row i and is left out
};

struct RankResult {
  int64_t* first_rank;        // [queries], 1 = best; 0 where a query has no positive
  double* average_precision;  // [queries], 0 where a query has no positive
  int64_t* positives;         // [queries]
};

struct RankCall {
  MatrixView queries;
  MatrixView gallery;
  Metric metric = Metric::cosine;
  Positives positives{};
  RankResult result{};
  int threads = 1;
};

// Average precision groups equal scores, as scikit-learn does; the first rank orders equal scores by lower row. NaN
// counts as -inf. Memory: one packed float32 copy of the gallery, and a strip of scores a thread.
void rank(CpuLevel level, const RankCall& call, const StopFn& stop = {});

// The same over scores that the caller computed: float32 [queries, gallery rows], higher is better.
void rank_scores(CpuLevel level, const MatrixView& scores, const Positives& positives, const RankResult& result,
                 int threads, const StopFn& stop = {});

}  // namespace fct
