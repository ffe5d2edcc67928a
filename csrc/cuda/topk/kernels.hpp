// Every kernel of the search as a type: its arguments, its threads, how many of its blocks
// must share a multiprocessor's registers, its body. A device (search.hpp) launches types.
#pragma once

#include "cuda/topk/finish_body.hpp"
#include "cuda/topk/fused_body.hpp"
#include "cuda/topk/fused_wgmma_body.hpp"
#include "cuda/topk/rows_body.hpp"
#include "cuda/topk/score_exact_body.hpp"
#include "cuda/topk/score_half_body.hpp"
#include "cuda/topk/seed_body.hpp"
#include "cuda/topk/select_body.hpp"

namespace fct::cuda::topk {

template <Metric metric, typename Stored, typename Operand>
struct RowsKernel {
  using Args = RowsArgs<Stored, Operand>;
  static constexpr int kThreads = kRowThreads;
  static constexpr int kBlocks = 1;
  static FCT_DEVICE void run(const Args& args, unsigned char* shared) {
    rows_body<metric, Stored, Operand>(args, shared);
  }
};

template <Metric metric, typename Stored>
struct ScoreExactKernel {
  using Args = ScoreExactArgs<Stored>;
  static constexpr int kThreads = ScoreExactTile::kThreads;
  static constexpr int kBlocks = 2;
  static FCT_DEVICE void run(const Args& args, unsigned char* shared) { score_exact_body<metric>(args, shared); }
};

template <typename Operand>
struct ScoreHalfKernel {
  using Args = ScoreHalfArgs<Operand>;
  static constexpr int kThreads = ScoreHalfTile::kThreads;
  static constexpr int kBlocks = 2;
  static FCT_DEVICE void run(const Args& args, unsigned char* shared) { score_half_body(args, shared); }
};

template <typename Operand>
struct FusedKernel {
  using Args = FusedArgs<Operand>;
  static constexpr int kThreads = FusedTile::kThreads;
  static constexpr int kBlocks = 2;
  static FCT_DEVICE void run(const Args& args, unsigned char* shared) { fused_body(args, shared); }
};

// Only for compute capability 9.0.
template <typename Operand, bool kStreamed>
struct FusedWgmmaKernel {
  using Args = FusedWgmmaArgs;
  static constexpr int kThreads = FusedWgmmaTile<kStreamed>::kThreads;
  static constexpr int kBlocks = 1;
  static FCT_DEVICE void run(const Args& args, unsigned char* shared) {
#if FCT_HOPPER
    fused_wgmma_body<Operand, kStreamed>(args, shared);
#endif
  }
};

template <Metric metric>
struct SeedKernel {
  using Args = SeedArgs;
  static constexpr int kThreads = kSeedThreads;
  static constexpr int kBlocks = 1;
  static FCT_DEVICE void run(const Args& args, unsigned char* shared) { seed_body<metric>(args, shared); }
};

template <bool kFromScores>
struct SelectKernel {
  using Args = SelectArgs;
  static constexpr int kThreads = SelectBlock::kThreads;
  static constexpr int kBlocks = 1;
  static FCT_DEVICE void run(const Args& args, unsigned char* shared) { select_body<kFromScores>(args, shared); }
};

template <Metric metric, typename Stored, bool kCoarse>
struct FinishKernel {
  using Args = FinishArgs<Stored>;
  static constexpr int kThreads = FinishBlock::kThreads;
  static constexpr int kBlocks = 1;
  static FCT_DEVICE void run(const Args& args, unsigned char* shared) {
    finish_body<metric, Stored, kCoarse>(args, shared);
  }
};

}  // namespace fct::cuda::topk
