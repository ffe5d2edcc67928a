// What became of a row of an upgrade; the same codes on the CPU and on a GPU.
#pragma once

namespace fct {

// Everything but ok is written as a zero row.
enum class RowStatus : unsigned char {
  ok = 0,
  nonfinite_input = 1,  // NaN or Inf in old or side
  zero_norm = 2,        // the output's norm is zero or below the smallest normal float
  overflow = 3,         // the output is not finite in float32, or not in a float16 `out`
};

}  // namespace fct
