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

}  // namespace fct::cuda
