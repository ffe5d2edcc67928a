// int8 tiles on AMX: tdpbusd adds 16 rows x 16 quads times 16 quads x 16 columns to a tile of int32 sums, without
// saturation. What is computed is defined in cpu/kernel_table.hpp.
#include <immintrin.h>

#include "cpu/finish_int8_avx512.hpp"
#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

constexpr int64_t kLineValues = 4;  // depth steps in 4 bytes

// Sums of row tile R and panel C += rows R (unsigned) times weights C (signed); see cpu/amx_body.hpp for the registers.
template <int R, int C>
[[gnu::always_inline]] inline void multiply_add() {
  if constexpr (R == 0 && C == 0) _tile_dpbusd(0, 4, 6);
  if constexpr (R == 0 && C == 1) _tile_dpbusd(1, 4, 7);
  if constexpr (R == 1 && C == 0) _tile_dpbusd(2, 5, 6);
  if constexpr (R == 1 && C == 1) _tile_dpbusd(3, 5, 7);
}

inline __m512i load_sums(const unsigned char* sums) { return _mm512_loadu_si512(sums); }

}  // namespace
}  // namespace fct

// The body is written over the functions above.
#include "cpu/amx_body.hpp"

namespace fct {
namespace {

void tile(const Int8TileArgs* args) {
  run_all(*args, {.x = args->x,
                  .x_stride = args->x_stride,
                  .panels = reinterpret_cast<const unsigned char*>(args->panels),
                  .panel_count = args->panel_count,
                  .lines = args->quads});
}

}  // namespace

const Int8Table kAmxInt8Kernels{.tile = tile, .narrow = narrow, .peak = peak};

}  // namespace fct
