// Rows cast to a 16-bit compute type on the CPU, before they cross the link: round half to even, as the kernels do.
#pragma once

#include <cstdint>

#include "core/matrix.hpp"

namespace fct::cuda {

// target[0, count) = source[0, count) in `dtype`, float16 or bfloat16. Returns whether the cast made an infinity of a
// finite value while all of source is finite: such a row must not be taken for a bad input.
bool narrow_row(const float* source, int64_t count, Dtype dtype, uint16_t* target);

// Whether all values of a row are finite.
bool is_finite_row(const unsigned char* row, int64_t count, Dtype dtype);

}  // namespace fct::cuda
