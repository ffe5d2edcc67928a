// int8: from sums to outputs. The definition, bit for bit the CPU's, is in fct_fast/kernels/int8.py: each float32
// operation rounded half to even and none fused.
#pragma once

#include "cuda/simt/simt.hpp"
#include "cuda/upgrade/epilogue.hpp"

namespace fct::cuda {

// A whole number of 0 to 255: y rounded half to even, NaN gives 0. Adding 2^23 puts the spacing of float at 1, so the
// addition itself rounds, and the low byte is the number.
FCT_DEVICE uint8_t quantised(float y) {
  const float positive = y > 0.0f ? y : 0.0f;  // 0 for NaN
  return static_cast<uint8_t>(bits_of(add(positive < 255.0f ? positive : 255.0f, 0x1p23f)) & 0xffu);
}

// The lower end of bytes is ReLU; NaN passes to float32 alone.
template <typename Output>
FCT_DEVICE Output requantised(float y, bool with_relu) {
  if constexpr (sizeof(Output) == 1) {
    return quantised(y);
  } else {
    return with_relu ? relu(y) : y;
  }
}

}  // namespace fct::cuda
