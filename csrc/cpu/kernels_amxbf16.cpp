// bfloat16 tiles on AMX: tdpbf16ps adds 16 rows x 16 pairs times 16 pairs x 16 columns to a tile of float32 sums.
//
// Inside the instruction the even values of the pairs are summed apart from the odd ones, so the bits are not those of
// AVX-512 BF16: a level of its own.
#include <immintrin.h>

#include "cpu/finish_bf16_avx512.hpp"
#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

constexpr int64_t kLineValues = 2;  // depth steps in 4 bytes

// Sums of row tile R and panel C += rows R times weights C; see cpu/amx_body.hpp for the registers.
template <int R, int C>
[[gnu::always_inline]] inline void multiply_add() {
  if constexpr (R == 0 && C == 0) _tile_dpbf16ps(0, 4, 6);
  if constexpr (R == 0 && C == 1) _tile_dpbf16ps(1, 4, 7);
  if constexpr (R == 1 && C == 0) _tile_dpbf16ps(2, 5, 6);
  if constexpr (R == 1 && C == 1) _tile_dpbf16ps(3, 5, 7);
}

inline __m512 load_sums(const unsigned char* sums) { return _mm512_loadu_ps(reinterpret_cast<const float*>(sums)); }

}  // namespace
}  // namespace fct

// The body is written over the functions above.
#include "cpu/amx_body.hpp"

namespace fct {
namespace {

void tile(const Bf16TileArgs* args) {
  run_all(*args, {.x = reinterpret_cast<const unsigned char*>(args->x),
                  .x_stride = 2 * args->x_stride,
                  .panels = reinterpret_cast<const unsigned char*>(args->panels),
                  .panel_count = args->panel_count,
                  .lines = args->pairs});
}

}  // namespace

const Bf16Table kAmxBf16Kernels{.tile = tile, .narrow = narrow, .peak = peak};

}  // namespace fct
