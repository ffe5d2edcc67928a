// What the int8 kernels of AVX-512 VNNI and of AMX do alike around their tiles: the end of a sum, and the narrowing of
// rows, as defined in cpu/kernel_table.hpp.
#pragma once

#include <immintrin.h>

#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

// vmaxps returns its second operand where either is NaN; the conversion rounds half to even.
[[gnu::always_inline]] inline void store_narrow(__m512 y, uint8_t* target) {
  const __m512 clamped = _mm512_min_ps(_mm512_max_ps(y, _mm512_setzero_ps()), _mm512_set1_ps(255.0f));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(clamped)));
}

// Writes 16 columns of a row of y from their sums.
[[gnu::always_inline]] inline void finish(const Int8TileArgs& args, int64_t row, int64_t panel, __m512i sum) {
  const int64_t first = panel * kPanelWidth;
  const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(args.scale + first));
  __m512 y = _mm512_add_ps(product, _mm512_loadu_ps(args.bias + first));
  const int64_t at = row * args.y_stride + first;
  if (args.narrow) {
    store_narrow(y, static_cast<uint8_t*>(args.y) + at);
  } else {
    if (args.relu) y = _mm512_max_ps(_mm512_setzero_ps(), y);  // NaN passes
    _mm512_storeu_ps(static_cast<float*>(args.y) + at, y);
  }
}

void narrow(const Int8NarrowArgs* args) {
  for (int64_t r = 0; r < args->rows; ++r) {
    const float* const x = args->x + r * args->x_stride;
    uint8_t* const y = args->y + r * args->y_stride;
    for (int64_t c = 0; c < args->panel_count * kPanelWidth; c += kPanelWidth)
      store_narrow(_mm512_loadu_ps(x + c), y + c);
  }
}

}  // namespace
}  // namespace fct
