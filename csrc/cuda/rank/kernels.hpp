// Every kernel of the evaluation as a type, like topk/kernels.hpp, of which it takes rows and scores.
#pragma once

#include "cuda/rank/count_body.hpp"
#include "cuda/rank/gather_body.hpp"
#include "cuda/rank/precision_body.hpp"
#include "cuda/rank/sort_body.hpp"
#include "cuda/topk/kernels.hpp"

namespace fct::cuda::rank {

struct GatherKernel {
  using Args = GatherArgs;
  static constexpr int kThreads = kGatherThreads;
  static constexpr int kBlocks = 1;
  static FCT_DEVICE void run(const Args& args, unsigned char* shared) { gather_body(args, shared); }
};

struct SortKernel {
  using Args = SortArgs;
  static constexpr int kThreads = SortBlock::kThreads;
  static constexpr int kBlocks = 1;
  static FCT_DEVICE void run(const Args& args, unsigned char* shared) { sort_body(args, shared); }
};

struct CountKernel {
  using Args = CountArgs;
  static constexpr int kThreads = CountBlock::kThreads;
  static constexpr int kBlocks = 4;
  static FCT_DEVICE void run(const Args& args, unsigned char* shared) { count_body(args, shared); }
};

struct PrecisionKernel {
  using Args = PrecisionArgs;
  static constexpr int kThreads = kPrecisionThreads;
  static constexpr int kBlocks = 1;
  static FCT_DEVICE void run(const Args& args, unsigned char* shared) { precision_body(args, shared); }
};

}  // namespace fct::cuda::rank
