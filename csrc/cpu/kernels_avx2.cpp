#include "cpu/transpose_avx.hpp"
#include "cpu/vec_avx2.hpp"
// The bodies are written over the Vec above.
#include "cpu/peak_body.hpp"
#include "cpu/rows_body.hpp"
#include "cpu/tile_body.hpp"

namespace fct {

const KernelTable kAvx2Kernels{
    .tile = tile, .load = load, .squares = squares, .scale = scale, .pack = pack, .filter = filter, .peak = peak};

}  // namespace fct
