// A launch on a stream, with as much shared memory as the kernel wants, and its refusal as an exception.
#pragma once

#include "cuda/runtime.hpp"

namespace fct::cuda {

template <typename Args>
void launch(void (*kernel)(Args), int64_t blocks, int threads, int shared_bytes, const Args& args, cudaStream_t stream,
            const char* what) {
  if (blocks == 0) return;
  if (shared_bytes > 0) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), what);
  }
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), static_cast<std::size_t>(shared_bytes),
           stream>>>(args);
  check(cudaGetLastError(), what);
}

// The same of a kernel that calls wait_for_kernel_before() (register_share.hpp): its blocks may start, and prepare,
// before the kernel before has ended.
template <typename Args>
void launch_overlapping(void (*kernel)(Args), int64_t blocks, int threads, int shared_bytes, const Args& args,
                        cudaStream_t stream, const char* what) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), what);
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(blocks);
  config.blockDim = static_cast<unsigned>(threads);
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, args), what);
}

}  // namespace fct::cuda
