#include "cpu/transpose_scalar.hpp"
#include "cpu/vec_scalar.hpp"
// The bodies are written over the Vec above.
#include "cpu/peak_body.hpp"
#include "cpu/rows_body.hpp"
#include "cpu/tile_body.hpp"

namespace fct {

const KernelTable kScalarKernels{
    .tile = tile, .load = load, .squares = squares, .scale = scale, .pack = pack, .filter = filter, .peak = peak};

}  // namespace fct
