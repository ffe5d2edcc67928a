// cp.async: global to shared memory without registers, in groups that are waited for later.
//
// The shim makes each copy at a moment that the seed picks between its issue and its wait, so that a missing wait and a
// buffer that is filled too early both show.
#pragma once

#include "cuda/simt/base.hpp"

namespace fct::cuda {

#if defined(__CUDACC__)

// 16 bytes to shared memory, of which the first `bytes` (0 to 16) come from `source` and the rest are zeros. With 0,
// `source` is not read; it must be an aligned address all the same.
FCT_DEVICE void copy_async_16(void* shared, const void* source, int bytes) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(source), "r"(bytes) : "memory");
}
// Closes the group of this thread's copies since the last commit.
FCT_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most kPending of this thread's newest groups are under way. Other threads see the bytes after a barrier.
template <int kPending>
FCT_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
// Asks for the 128 bytes at an address of global memory that may be read; a hint.
FCT_DEVICE void prefetch_l2(const void* source) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(source)));
}

#else

FCT_DEVICE void copy_async_16(void* shared, const void* source, int bytes) {
  shim::current().copy_async(shared, source, bytes);
}
FCT_DEVICE void copy_async_commit() { shim::current().copy_async_commit(); }
template <int kPending>
FCT_DEVICE void copy_async_wait() {
  shim::current().copy_async_wait(kPending);
}
FCT_DEVICE void prefetch_l2(const void* source) { static_cast<void>(*static_cast<const volatile char*>(source)); }

#endif

}  // namespace fct::cuda
