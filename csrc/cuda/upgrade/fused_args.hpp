// Arguments of the fused kernel: a small h whole, as steps over rows that stay in shared memory.
#pragma once

#include <cstdint>

#include "cuda/upgrade/args.hpp"

namespace fct::cuda {

constexpr int kFusedRows = 32;          // of a warp's tile
constexpr int kFusedStepElements = 16;  // of depth, one product of a tensor core
constexpr int kFusedStepBytes = kFusedStepElements * 2;
// Behind a row of weights or activations in shared memory, which is so an odd number of chunks: eight rows lie in
// different banks.
constexpr int kFusedPadBytes = 16;
constexpr int kMostFusedSteps = 24;
constexpr int kMostFusedWarps = 8;
// The deepest layer, in steps of depth: two kernels, since a warp keeps all of a layer's input in registers.
constexpr int kShallowDepth = 8;
constexpr int kDeepDepth = 16;

// Places are bytes from the start of a row of activations; a step may write over what it reads.
struct FusedStep {
  enum class Kind : int32_t { load_old, load_side, layer };
  Kind kind = Kind::load_old;
  int32_t x_at = 0;
  int32_t y_at = 0;
  int32_t depth = 0;    // whole chunks
  int32_t columns = 0;  // whole chunks
  int32_t relu = 0;
  int32_t last = 0;  // y is float32
  // In shared memory: padded to whole steps of depth and 16 columns by zeros.
  int32_t weight_shared = 0;
  int32_t bias_shared = 0;
  // In the packed weights.
  int64_t weight_at = 0;
  int64_t bias_at = 0;
};

struct FusedInput {
  const void* data = nullptr;  // any alignment and stride that its elements allow
  int64_t stride = 0;
  int32_t dtype = 0;  // fct::Dtype
  int32_t columns = 0;
};

struct FusedArgs {
  FusedInput old;
  FusedInput side;
  const unsigned char* weights = nullptr;
  FusedStep steps[kMostFusedSteps];
  int32_t step_count = 0;
  int32_t row_bytes = 0;
  int32_t rows_at = 0;    // in shared memory: each warp's tile of activations
  int32_t status_at = 0;  // and a byte for each of its rows
  FinishArgs finish{};    // its x is not looked at
};

}  // namespace fct::cuda
