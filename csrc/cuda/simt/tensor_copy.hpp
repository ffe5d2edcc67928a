// Copies of boxes between global and shared memory by the copy engine (TMA); tensor_map.hpp says what a box is. One
// thread starts a copy for all.
//
// The engine and wgmma see shared memory through the "async proxy": what threads wrote there with ordinary stores needs
// fence_async_proxy() in each writing thread, then a barrier, before the engine may read it.
//
// The shim poisons what a load will fill, and makes each copy at a random later moment.
#pragma once

#include "cuda/simt/mbarrier.hpp"
#include "cuda/tensor_map.hpp"

namespace fct::cuda {

#if defined(__CUDACC__)

// Shared memory at a multiple of 1024. Arrives as box_rows x 128 bytes on `barrier`, whatever part of the box exists.
FCT_DEVICE void tensor_load(void* shared, const TensorMap& map, int column, int row, Mbarrier* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
          "r"(shared_address(shared)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier))
      : "memory");
}
// From shared memory at a multiple of 1024. This thread's stores go in groups, as those of cp.async.
FCT_DEVICE void tensor_store(const TensorMap& map, int column, int row, const void* shared) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map),
               "r"(column), "r"(row), "r"(shared_address(shared))
               : "memory");
}
FCT_DEVICE void tensor_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until at most kPending of this thread's newest groups have yet to read shared memory.
template <int kPending>
FCT_DEVICE void tensor_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
// Until all have been written, too.
FCT_DEVICE void tensor_store_wait_all() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

FCT_DEVICE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
FCT_DEVICE void prefetch_tensor_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

#else

FCT_DEVICE void tensor_load(void* shared, const TensorMap& map, int column, int row, Mbarrier* barrier) {
  shim::current().hopper().load_box(shared, map, column, row, barrier);
}
FCT_DEVICE void tensor_store(const TensorMap& map, int column, int row, const void* shared) {
  shim::current().hopper().store_box(map, column, row, shared);
}
FCT_DEVICE void tensor_store_commit() { shim::current().hopper().store_commit(); }
template <int kPending>
FCT_DEVICE void tensor_store_wait_read() {
  shim::current().hopper().store_wait(kPending);
}
FCT_DEVICE void tensor_store_wait_all() { shim::current().hopper().store_wait(0); }
FCT_DEVICE void fence_async_proxy() { shim::current().hopper().fence_async_proxy(); }
FCT_DEVICE void prefetch_tensor_map(const TensorMap&) {}

#endif

}  // namespace fct::cuda
