// Whether a transformation is small enough for the fused kernel, and where all its parts lie in shared memory. Host
// only, a pure function.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "cuda/device.hpp"
#include "cuda/upgrade/fused_args.hpp"
#include "cuda/upgrade/layout.hpp"

namespace fct::cuda {

struct FusedPlan {
  std::array<FusedStep, kMostFusedSteps> steps{};
  int32_t step_count = 0;
  int32_t row_bytes = 0;
  int32_t rows_at = 0;
  int32_t status_at = 0;
  bool deep = false;  // kDeepDepth, else kShallowDepth
  int warps = 0;
  int blocks_per_multiprocessor = 0;
  int64_t weight_bytes = 0;  // in shared memory
  int64_t shared_bytes = 0;

  int threads() const { return warps * 32; }
  // Persistent: as many as run at once, fewer where there are fewer tiles.
  int64_t blocks(int64_t rows, const DeviceFacts& device) const;
  std::string text() const;
};

// Nothing where the layers are too many, too deep or too large, or where the precision is not of 16 bits.
std::optional<FusedPlan> plan_fused(const TransformLayout& layout, const DeviceFacts& device);

}  // namespace fct::cuda
