// The steps of a plan as kernel launches on a stream.
#pragma once

#include <cuda_runtime.h>

#include "cuda/upgrade/run.hpp"

namespace fct::cuda {

// Throws CudaFailure where a launch is refused; what kernels do shows later, on the stream.
class StreamLauncher : public Launcher {
 public:
  explicit StreamLauncher(cudaStream_t stream) : stream_(stream) {}
  void clear(unsigned char* status, int64_t rows) override;
  void load(const LoadArgs& args, Dtype precision) override;
  void layer(const LayerArgs& args, Dtype precision, TileName tile, bool last) override;
  void finish(const FinishArgs& args) override;
  void fused(const FusedArgs& args, Dtype precision, const FusedPlan& plan, int64_t blocks) override;

 private:
  cudaStream_t stream_;
};

// A layer with a tile of wgmma_tile.hpp.
void launch_wgmma(const LayerArgs& args, Dtype precision, TileName tile, bool last, cudaStream_t stream);

}  // namespace fct::cuda
