// Barriers in shared memory that count arrivals and bytes (mbarrier), and barriers of some threads of a block.
//
// An mbarrier goes through phases. A phase ends when `arrivals` threads have arrived and all bytes that they announced
// have been copied; waits name the parity of the phase that they wait for, 0 for the first. On a fresh barrier the
// phase "before the first" has ended: waiting for parity 1 returns at once, which is how a producer finds its stages
// free.
//
// From here on sm_90; a body that uses these is compiled for sm_90a alone: FCT_HOPPER says whether it is.
#pragma once

#include "cuda/simt/base.hpp"

#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FCT_HOPPER 1
#else
#define FCT_HOPPER 0
#endif

namespace fct::cuda {

constexpr int kWarpgroupThreads = 4 * kWarpLanes;

using Mbarrier = uint64_t;  // 8 bytes of shared memory, touched by nothing else

#if defined(__CUDACC__)

FCT_DEVICE uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// By one thread, which then calls mbarrier_publish() once for all; the others see the barriers after a sync_block().
FCT_DEVICE void mbarrier_init(Mbarrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
FCT_DEVICE void mbarrier_publish() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}
FCT_DEVICE void mbarrier_arrive(Mbarrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and announces bytes of copies that complete on the barrier in this phase.
FCT_DEVICE void mbarrier_arrive_expect(Mbarrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// Until the phase of this parity has ended.
FCT_DEVICE void mbarrier_wait(Mbarrier* barrier, int parity) {
  uint32_t ended = 0;
  while (ended == 0) {
    asm volatile(
        "{\n.reg .pred ended;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
        "selp.u32 %0, 1, 0, ended;\n}"
        : "=r"(ended)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  }
}

// Barrier number `name`, 1 to 15, of `threads` threads in whole warps.
FCT_DEVICE void sync_some(int name, int threads) {
  asm volatile("barrier.cta.sync.aligned %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

#else

FCT_DEVICE void mbarrier_init(Mbarrier* barrier, int arrivals) {
  shim::current().hopper().barrier_init(barrier, arrivals);
}
FCT_DEVICE void mbarrier_publish() { shim::current().hopper().barrier_publish(); }
FCT_DEVICE void mbarrier_arrive(Mbarrier* barrier) { shim::current().hopper().barrier_arrive(barrier, 0); }
FCT_DEVICE void mbarrier_arrive_expect(Mbarrier* barrier, int bytes) {
  shim::current().hopper().barrier_arrive(barrier, bytes);
}
FCT_DEVICE void mbarrier_wait(Mbarrier* barrier, int parity) { shim::current().hopper().barrier_wait(barrier, parity); }
FCT_DEVICE void sync_some(int name, int threads) { shim::current().hopper().sync_some(name, threads); }

#endif

}  // namespace fct::cuda
