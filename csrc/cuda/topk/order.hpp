// The order of results as one unsigned number: higher score first, then lower row, NaN after everything.
//
// A key holds the score's order in its high word and the complement of the row's ordinal in the low word, so that the
// larger key is the better result and no two rows share one. A selection by key is therefore the same set whatever the
// tiles, stripes or order in which rows were seen. Ordinals count rows of one call; ids beyond 32 bits are an offset
// added when results are written (see finish_body.hpp).
#pragma once

#include "cuda/simt/numbers.hpp"
#include "cuda/topk/tiles.hpp"

namespace fct::cuda::topk {

// No row has this key: it is below every NaN, and its score reads as NaN, which no threshold test rejects.
constexpr Key kNoKey = 0;

#if defined(__CUDACC__)
FCT_DEVICE float float_from_bits(uint32_t bits) { return __uint_as_float(bits); }
#else
FCT_DEVICE float float_from_bits(uint32_t bits) { return __builtin_bit_cast(float, bits); }
#endif

FCT_DEVICE bool is_nan(float x) { return (bits_of(x) & 0x7fffffffu) > 0x7f800000u; }

// Ascending with the score; both zeros alike; 0 for NaN, 0x007fffff for -inf.
FCT_DEVICE uint32_t order_of(float score) {
  if (is_nan(score)) return 0;
  const uint32_t bits = score == 0.0f ? 0u : bits_of(score);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

FCT_DEVICE float score_of_order(uint32_t order) {
  return float_from_bits(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}

FCT_DEVICE Key key_of(float score, uint32_t ordinal) {
  return static_cast<Key>(order_of(score)) << 32 | static_cast<uint32_t>(~ordinal);
}
FCT_DEVICE float score_of(Key key) { return score_of_order(static_cast<uint32_t>(key >> 32)); }
FCT_DEVICE uint32_t ordinal_of(Key key) { return ~static_cast<uint32_t>(key); }

}  // namespace fct::cuda::topk
