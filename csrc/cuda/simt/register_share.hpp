// A warpgroup gives registers back, or takes more (setmaxnreg): all four warps call it, once, at the start of their
// role. The kernel needs __launch_bounds__(threads, 1). And launches that overlap the end of the kernel before.
#pragma once

#include "cuda/simt/mbarrier.hpp"

namespace fct::cuda {

// At most so many for the whole kernel to start with: what ptxas may use where roles differ.
constexpr int entry_registers(int threads) { return 65536 / threads / 8 * 8; }

#if defined(__CUDACC__)

template <int kRegisters>
FCT_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
FCT_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
// The next kernel of the stream, if it was launched to overlap, may begin; it calls wait_for_kernel_before() before it
// touches memory that this one writes or reads.
FCT_DEVICE void let_next_kernel_begin() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
FCT_DEVICE void wait_for_kernel_before() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

#else

template <int kRegisters>
FCT_DEVICE void take_registers() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  shim::current().hopper().set_registers(kRegisters, true);
}
template <int kRegisters>
FCT_DEVICE void give_registers() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  shim::current().hopper().set_registers(kRegisters, false);
}
FCT_DEVICE void let_next_kernel_begin() {}
FCT_DEVICE void wait_for_kernel_before() {}

#endif

}  // namespace fct::cuda
