// Exact top-k search that scores in int8 and looks again, in float32, at the rows that could be among the best.
#pragma once

#include <cstdint>

#include "core/coarse_gallery.hpp"
#include "core/topk.hpp"

namespace fct {

// The answer of topk, bit for bit. `call.gallery` holds the rows that `coarse` was packed from, with the same metric.
// A row is left out only where its int8 score and the bound on its error say that it cannot belong; so recall is one,
// by proof and not by luck. Queries whose scores lie too close for that, and queries or galleries with NaN or Inf, are
// handed to topk.
void topk_coarse(CpuLevel level, const TopkCall& call, const CoarseGallery& coarse, const StopFn& stop = {});

}  // namespace fct
