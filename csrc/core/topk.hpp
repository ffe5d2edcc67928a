// Exact top-k search: scores are computed in blocks and filtered at once, the score matrix never exists.
#pragma once

#include <cstdint>

#include "core/rows.hpp"
#include "core/thread_pool.hpp"

namespace fct {

struct TopkCall {
  MatrixView queries;
  // The gallery as rows, or, where `panels` is set, as the output of pack_gallery for the same metric.
  MatrixView gallery;
  const float* panels = nullptr;
  Metric metric = Metric::cosine;
  int64_t k = 0;
  int64_t first_id = 0;  // id of the gallery's first row
  // With `seeded`, scores and ids hold a finished result over rows of lower ids, which is carried on.
  bool seeded = false;
  float* scores = nullptr;  // [queries, k]; best first
  int64_t* ids = nullptr;   // [queries, k]
  int threads = 1;
};

// Best first; equal scores by lower id; NaN last. With Metric::l2 the score is the squared distance, lowest first.
// A pair's score has the same bits whatever the batch, the thread count or the packing.
void topk(CpuLevel level, const TopkCall& call, const StopFn& stop = {});

// Packs all rows for many calls: panels [panels_of(rows), cols, 16].
void pack_gallery(CpuLevel level, const MatrixView& gallery, Metric metric, float* panels, int threads,
                  const StopFn& stop = {});

}  // namespace fct
