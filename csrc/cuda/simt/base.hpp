// What a kernel body knows of its place: thread, warp, block, and the block's barrier.
//
// Kernel bodies are plain function templates over these headers. Under nvcc each primitive is its PTX or intrinsic;
// under a host compiler it is a call into the shim (cuda/shim/block.hpp), where the threads of a block are fibers. A
// body therefore runs, and is tested, on machines without a GPU.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FCT_DEVICE __device__ __forceinline__
#define FCT_UNROLL _Pragma("unroll")
#else
#include "cuda/shim/block.hpp"
#define FCT_DEVICE inline
#define FCT_UNROLL
#endif

namespace fct::cuda {

constexpr int kWarpLanes = 32;

#if defined(__CUDACC__)
FCT_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
FCT_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }
// Grids are one-dimensional: a body decodes its tile from one index, in the order that serves its caches.
FCT_DEVICE int64_t block_index() { return static_cast<int64_t>(blockIdx.x); }
FCT_DEVICE int64_t block_count() { return static_cast<int64_t>(gridDim.x); }
// All threads of the block, none of which may have returned.
FCT_DEVICE void sync_block() { __syncthreads(); }
#else
FCT_DEVICE int thread_index() { return shim::current().thread_index(); }
FCT_DEVICE int block_threads() { return shim::current().threads(); }
FCT_DEVICE int64_t block_index() { return shim::current().block_index(); }
FCT_DEVICE int64_t block_count() { return shim::current().block_count(); }
FCT_DEVICE void sync_block() { shim::current().sync_block(); }
#endif

FCT_DEVICE int warp_index() { return thread_index() / kWarpLanes; }
FCT_DEVICE int lane_index() { return thread_index() % kWarpLanes; }

}  // namespace fct::cuda
