// Atomics on global or shared memory; each returns the value from before. Relaxed: they order nothing else.
#pragma once

#include "cuda/simt/base.hpp"

namespace fct::cuda {

#if defined(__CUDACC__)

FCT_DEVICE uint32_t atomic_add(uint32_t* target, uint32_t value) { return atomicAdd(target, value); }
FCT_DEVICE uint32_t atomic_max(uint32_t* target, uint32_t value) { return atomicMax(target, value); }
FCT_DEVICE uint64_t atomic_max(uint64_t* target, uint64_t value) {
  return atomicMax(reinterpret_cast<unsigned long long*>(target), static_cast<unsigned long long>(value));
}
// Makes this thread's writes visible to the device before its later ones.
FCT_DEVICE void fence_device() { __threadfence(); }

#else

template <typename T, typename Change>
FCT_DEVICE T atomic_change(T* target, Change change) {
  shim::current().yield();
  const T before = *target;
  *target = change(before);
  return before;
}
FCT_DEVICE uint32_t atomic_add(uint32_t* target, uint32_t value) {
  return atomic_change(target, [value](uint32_t old) { return old + value; });
}
FCT_DEVICE uint32_t atomic_max(uint32_t* target, uint32_t value) {
  return atomic_change(target, [value](uint32_t old) { return old > value ? old : value; });
}
FCT_DEVICE uint64_t atomic_max(uint64_t* target, uint64_t value) {
  return atomic_change(target, [value](uint64_t old) { return old > value ? old : value; });
}
FCT_DEVICE void fence_device() {}

#endif

}  // namespace fct::cuda
