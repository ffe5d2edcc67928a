#include "cuda/upgrade/fused.hpp"

#include "cuda/launch_kernel.hpp"
#include "cuda/upgrade/launch.hpp"

namespace fct::cuda {
namespace {

constexpr int kThreads = kMostFusedWarps * kWarpLanes;

// The shallow kernel leaves room for a second block on a multiprocessor.
template <typename Element, int kMostDepth>
__global__ void __launch_bounds__(kThreads, kMostDepth == kShallowDepth ? 2 : 1)
    upgrade_fused(const __grid_constant__ FusedArgs args) {
  extern __shared__ __align__(1024) unsigned char shared[];
  fused<Element, kMostDepth>(args, shared);
}

template <typename Element>
void launch_fused(const FusedArgs& args, const FusedPlan& plan, int64_t blocks, cudaStream_t stream) {
  const auto kernel = plan.deep ? upgrade_fused<Element, kDeepDepth> : upgrade_fused<Element, kShallowDepth>;
  launch(kernel, blocks, plan.threads(), static_cast<int>(plan.shared_bytes), args, stream, "upgrade: a small h whole");
}

}  // namespace

void StreamLauncher::fused(const FusedArgs& args, Dtype precision, const FusedPlan& plan, int64_t blocks) {
  if (precision == Dtype::f16) return launch_fused<Half>(args, plan, blocks, stream_);
  launch_fused<Bfloat>(args, plan, blocks, stream_);
}

}  // namespace fct::cuda
