// Coarse scores and what they prove.
//
// Coarse scoring computes, from operands in 16 bits (or int8, below), for query q and gallery row g, the coarse score
//     U = (q16 . g16) * factor(q) * factor(g) + offset(g)
// whose facts are chosen so that it bounds the exact score S (rows.hpp) from above:
//     S <= slope(q) U + constant(q).
// With E the relative error bound below, |q16 . g16 - q . g| <= E |q| |g| after undoing the operands' scales, hence
//     cosine         U = q.g / |q||g|,                          S <= U + E
//     inner product  U = q.g / |q| + E |g|,                     S <= |q| U
//     l2, S = -|q-g|^2, by 2 |q||g| <= |q|^2 + |g|^2:
//                    U = 2 q.g - (1 - 2E) |g|^2,                S <= U - (1 - 2E) |q|^2
// In int8 (quantise.hpp; not for l2) each row brings what it lost, rho = |row - its operand| / |row|, and
//     |q8 . g8 - q . g| <= |q - q8| |g| + |q8| |g - g8| <= (rho(q) + (1 + rho(q)) rho(g)) |q| |g|
// so, with rho the largest rho(q) of the block of queries, which the facts of rows wait for,
//     cosine         U = q.g / (1 + rho(q)) |q||g| + rho(g),     S <= (1 + rho(q)) U + rho(q) + E
//     inner product  U = q.g / (1 + rho(q)) |q| + (rho + rho(g) + E) |g|,   S <= (1 + rho(q)) |q| U
// In 16 bits every rho is 0 and its part is in E.
// A search keeps the best `kept` > k rows by (U, row), scores those exactly, and takes the best k. A row that was not
// kept has U <= T, the last kept one's. So if the k-th exact score is above slope(q) T + constant(q), no other row can
// belong: the result is proved to be what exact scoring of every row gives. A query without that proof goes through the
// exact kernels instead. The margin kept - k thus decides speed, never the answer.
//
// E, for sums over d columns, each term at most its share of |q||g| by Cauchy-Schwarz:
//     2^-11 (1 + 2^-11 ...)   an operand rounded to float16 (2^-8 to bfloat16), 0 where it is stored so
//     2^-23 sqrt(d)           elements below the smallest normal float16 of rows scaled to a maximum in [1, 2)
//     2^-21 d                 the tensor core's sums, taken as at most 17 truncations at 2^-23 per 16 columns (their
//                             rounding is not documented; this is meant to be on the safe side, and a GPU run must
//                             check it), and the exact score's own rounding, at most (d + 2) 2^-24, for l2 twice that
//     2^-19                   the arithmetic of U, of the facts and of unit rows, a few roundings at 2^-24 each
// and in int8, whose sums are exact, 2^-23 d + 2^-19.
// Rows for which this does not hold are treated apart. RowClass::forced (zero aside, norms outside 2^-40 .. 2^60, where
// something could overflow or underflow; Inf in the row): U = +inf, always kept. RowClass::hopeless (NaN in the row;
// for the cosine Inf too): S is NaN for every query, and U = NaN sorts it last, as S does. A query that is not finite,
// or has such a norm, goes to the exact kernels at once.
#pragma once

#include "cuda/topk/quantise.hpp"

namespace fct::cuda::topk {

constexpr double kLargestNorm = 0x1p60;
constexpr double kLeastNorm = 0x1p-40;

FCT_HOST_DEVICE double rounding_of(Half) { return 0x1p-11; }
FCT_HOST_DEVICE double rounding_of(Bfloat) { return 0x1p-8; }

// E, where `rounded_sides` (0 to 2) of the operands are not stored in the operand format.
FCT_HOST_DEVICE double relative_error(int cols, double rounding, int rounded_sides) {
  const double operands = (1.0 + rounding) * (1.0 + rounding) - 1.0;
  const double once = rounded_sides == 0 ? 0.0 : rounded_sides == 1 ? rounding : operands;
  const double subnormal = rounded_sides == 0 ? 0.0 : 0x1p-23 * sqrt(static_cast<double>(cols));
  return once + subnormal + 0x1p-21 * cols + 0x1p-19;
}

// In int8 the operands' part is apart.
FCT_HOST_DEVICE double relative_error_of_bytes(int cols) { return 0x1p-23 * cols + 0x1p-19; }

enum class RowClass { ordinary, forced, hopeless };

template <Metric metric>
FCT_DEVICE RowClass class_of(double squares) {
  const double norm = sqrt(squares);
  if (norm == 0.0 || (norm >= kLeastNorm && norm <= kLargestNorm)) return RowClass::ordinary;
  const bool is_number = norm == norm;
  const bool is_infinite = is_number && norm > 1e300;
  if (!is_number || (metric == Metric::cosine && is_infinite)) return RowClass::hopeless;
  return RowClass::forced;
}

// `error` is E; of inner products in int8, with the largest loss of the queries.
template <Metric metric>
FCT_DEVICE RowFacts facts_of_row(double squares, Packed packed, double error) {
  const RowClass row_class = class_of<metric>(squares);
  if (row_class == RowClass::forced) return {0.0f, float_from_bits(0x7f800000u)};
  if (row_class == RowClass::hopeless) return {0.0f, float_from_bits(0x7fc00000u)};
  const double norm = sqrt(squares);
  const float factor = static_cast<float>(packed.unscale);
  if constexpr (metric == Metric::cosine)
    return {static_cast<float>(packed.unscale * unit_scale(squares)), static_cast<float>(packed.loss)};
  if constexpr (metric == Metric::inner_product) return {factor, static_cast<float>((error + packed.loss) * norm)};
  return {2.0f * factor, static_cast<float>((2.0 * error - 1.0) * squares)};
}

template <Metric metric>
FCT_DEVICE QueryFacts facts_of_query(double squares, Packed packed, double error) {
  const double norm = sqrt(squares);
  QueryFacts facts{1.0, 0.0, 0.0f, float_from_bits(0x7fc00000u), class_of<metric>(squares) == RowClass::ordinary};
  if (!facts.provable) return facts;
  const double stretch = 1.0 + packed.loss;
  if constexpr (metric == Metric::cosine) {
    facts.factor = static_cast<float>(packed.unscale * unit_scale(squares) / stretch);
    facts.slope = stretch;
    facts.constant = error + packed.loss;
  } else if constexpr (metric == Metric::inner_product) {
    facts.slope = norm * stretch;
    facts.factor = norm == 0.0 ? 0.0f : static_cast<float>(packed.unscale / facts.slope);
  } else {
    facts.factor = static_cast<float>(packed.unscale);
    facts.constant = (2.0 * error - 1.0) * squares;
  }
  return facts;
}

// The lowest U that could still reach a result whose worst exact score is `worst`; NaN, which rejects nothing, where
// there is no such bound.
FCT_DEVICE float floor_for(float worst, const QueryFacts& facts) {
  if (!is_finite(worst) || facts.slope <= 0.0) return float_from_bits(0x7fc00000u);
  const double floor = (static_cast<double>(worst) - facts.constant) / facts.slope;
  return static_cast<float>(floor - fabs(floor) * 0x1p-22 - 0x1p-120);  // the cast rounds up by less than that
}

// U; for a pair of which the operands say nothing (Inf or NaN in a forced row) +inf, for a hopeless row NaN.
FCT_DEVICE float coarse_score(float product, float query_factor, RowFacts row) {
  const float bound = fmaf(product * query_factor, row.factor, row.offset);
  return is_nan(bound) && !is_nan(row.offset) ? float_from_bits(0x7f800000u) : bound;
}

}  // namespace fct::cuda::topk
