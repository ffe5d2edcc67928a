#include "cpu/quads_scalar.hpp"
// The body is written over the Quads above.
#include "cpu/int8_body.hpp"
#include "cpu/peak_int8_body.hpp"

namespace fct {

const Int8Table kScalarInt8Kernels{.tile = tile, .narrow = narrow, .peak = peak};

}  // namespace fct
