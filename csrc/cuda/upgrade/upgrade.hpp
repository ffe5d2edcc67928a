// What the library's upgrade files share: weights on a device, checks of a call, and the two ways to run one.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "cuda/abi.h"
#include "cuda/runtime.hpp"
#include "cuda/upgrade/host_stream.hpp"
#include "cuda/upgrade/layout.hpp"

struct FctCudaUpgrade {
  int device;
  fct::cuda::DeviceFacts facts;
  fct::cuda::TransformLayout layout;
  unsigned char* weights;
  fct::cuda::HostWorkspaces workspaces;  // of calls on host arrays
};

namespace fct::cuda {

std::string shape_of(const FctCudaUpgrade& upgrade, const FctCudaUpgradeCall& call);

// Throw ShapeError or DtypeError; look at no memory.
void check_call(const FctCudaUpgrade& upgrade, const FctCudaUpgradeCall& call);

// Pointers of the device: queues the work on the call's stream.
void run_on_device(const FctCudaUpgrade& upgrade, FctCudaUpgradeCall& call);

// Pointers of the host: returns when the rows are there. Throws Interrupted where call.stop said so.
void run_on_host(FctCudaUpgrade& upgrade, FctCudaUpgradeCall& call);

// Runs attempt(limit) with half the memory again and again where the device runs short of it.
template <typename Attempt>
void with_shrinking_memory(const FctCudaUpgrade& upgrade, const FctCudaUpgradeCall& call, Attempt attempt) {
  constexpr int64_t kLeast = int64_t{1} << 20;
  for (int64_t limit = call.scratch_limit;; limit /= 2) {
    const cudaError_t error = attempt(limit);
    if (error == cudaSuccess) return;
    cudaGetLastError();
    if (error != cudaErrorMemoryAllocation || limit / 2 < kLeast) check(error, shape_of(upgrade, call));
  }
}

}  // namespace fct::cuda
