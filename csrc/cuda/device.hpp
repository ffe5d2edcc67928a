// What a plan needs to know of a device. Plain numbers: plans are made, printed and tested where there is none.
#pragma once

#include <cstdint>

namespace fct::cuda {

struct DeviceFacts {
  int compute = 0;  // compute capability, 90 for 9.0
  int multiprocessors = 0;
  int64_t shared_bytes = 0;  // of a block, at most, by opting in
  int64_t memory_bytes = 0;
};

// The oldest generation with the instructions that the kernels use.
constexpr int kMinCompute = 80;

}  // namespace fct::cuda
