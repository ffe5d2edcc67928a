// What the bfloat16 kernels of AVX-512 BF16 and of AMX do alike around their tiles: the end of a sum, and the narrowing
// of rows.
#pragma once

#include <immintrin.h>

#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

// Writes 16 columns of a row of y from their sums.
[[gnu::always_inline]] inline void finish(const Bf16TileArgs& args, int64_t row, int64_t panel, __m512 sum) {
  __m512 total = _mm512_add_ps(sum, _mm512_loadu_ps(args.bias + panel * kPanelWidth));
  // max(x, 0) that lets NaN pass.
  if (args.relu) total = _mm512_max_ps(_mm512_setzero_ps(), total);
  const int64_t at = row * args.y_stride + panel * kPanelWidth;
  if (args.narrow) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(static_cast<uint16_t*>(args.y) + at),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(total)));
  } else {
    _mm512_storeu_ps(static_cast<float*>(args.y) + at, total);
  }
}

void narrow(const Bf16NarrowArgs* args) {
  for (int64_t r = 0; r < args->rows; ++r) {
    const float* const x = args->x + r * args->x_stride;
    uint16_t* const y = args->y + r * args->y_stride;
    for (int64_t c = 0; c < args->padded_cols; c += 16) {
      const int64_t left = args->cols - c;
      const __mmask16 in = left >= 16 ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1);
      const int64_t room = args->padded_cols - c;
      const __mmask16 out = room >= 16 ? 0xffff : static_cast<__mmask16>((1u << room) - 1);
      const __m512 values = _mm512_maskz_loadu_ps(in, x + c);
      _mm256_mask_storeu_epi16(y + c, out, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)));
    }
  }
}

}  // namespace
}  // namespace fct
