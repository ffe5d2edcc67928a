#include "cpu/quads_avx2.hpp"
// The body is written over the Quads above.
#include "cpu/int8_body.hpp"
#include "cpu/peak_int8_body.hpp"

namespace fct {

const Int8Table kAvx2Int8Kernels{.tile = tile, .narrow = narrow, .peak = peak};

}  // namespace fct
