// How fast this machine multiplies and adds at most, so that a kernel's rate has something to be held against.
#pragma once

#include "core/dispatch.hpp"
#include "core/packed_transform.hpp"

namespace fct {

// Multiply-adds a second of `threads` threads together, each busy for about `seconds` in registers alone, by the
// instructions that this level's kernels of this precision are made of. Throws DeviceError where it has none.
double peak_rate(CpuLevel level, Precision precision, int threads, double seconds);

}  // namespace fct
