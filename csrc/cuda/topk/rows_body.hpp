// What scoring needs of each row before it starts: scales, exact elements, facts and operands for coarse scoring.
#pragma once

#include <type_traits>

#include "cuda/topk/bound.hpp"

namespace fct::cuda::topk {

// One warp a row; every output that is not null is written.
template <typename Stored, typename Operand>
struct RowsArgs {
  Rows<Stored> source;
  double* scales;  // [rows], what the exact elements are scaled by
  float* exact;    // [rows, cols], the exact elements
  // Operands [rows, packed_stride]: scaled by a power of two to a maximum in [1, 2) where Stored is not Operand; zeros
  // from cols on, and for rows treated apart.
  Operand* packed;
  int64_t packed_stride;
  double error;  // E, for the facts
  RowFacts* row_facts;
  QueryFacts* query_facts;
  const float* seeds;  // scores [rows, k] of earlier pieces of the gallery, as the user sees them, for query_facts
  int64_t k;
};

// The power of two that brings the row's largest magnitude to [1, 2); 1 for zeros.
template <typename T>
FCT_DEVICE float power_of_row(const T* row, int cols) {
  uint32_t largest = 0;
  for (int c = lane_index(); c < cols; c += kWarpLanes) {
    const uint32_t magnitude = bits_of(widen(row[c])) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  largest = reduce_warp(largest, [](uint32_t a, uint32_t b) { return a > b ? a : b; });
  return largest == 0 ? 1.0f : float_from_bits(largest & 0x7f800000u);
}

template <Metric metric, typename Stored, typename Operand>
FCT_DEVICE void rows_body(const RowsArgs<Stored, Operand>& args, unsigned char*) {
  constexpr bool kConverted = !std::is_same_v<Stored, Operand>;
  const int warps = block_threads() / kWarpLanes;
  const int cols = args.source.cols;
  for (int64_t r = block_index() * warps + warp_index(); r < args.source.rows; r += block_count() * warps) {
    const Stored* const row = args.source.row(r);
    const double squares = squares_of_row(row, cols);
    const bool ordinary = class_of<metric>(squares) == RowClass::ordinary;
    const double scale = metric == Metric::cosine ? unit_scale(squares) : 1.0;
    if (args.exact != nullptr) {
      for (int c = lane_index(); c < cols; c += kWarpLanes) {
        args.exact[r * cols + c] = exact_element<metric>(row[c], scale);
      }
    }
    float power = 1.0f;
    if (args.packed != nullptr) {
      if (kConverted && ordinary) power = power_of_row(row, cols);
      Operand* const target = args.packed + r * args.packed_stride;
      for (int64_t c = lane_index(); c < args.packed_stride; c += kWarpLanes) {
        const float x = c < cols && ordinary ? widen(row[c]) : 0.0f;
        target[c] = narrowed<Operand>(kConverted ? x / power : x);
      }
    }
    if (lane_index() != 0) continue;
    if (args.scales != nullptr) args.scales[r] = scale;
    if (args.row_facts != nullptr) args.row_facts[r] = facts_of_row<metric>(squares, power, args.error);
    if (args.query_facts != nullptr) {
      QueryFacts facts = facts_of_query<metric>(squares, power, args.error);
      if (args.seeds != nullptr) {
        const float worst = args.seeds[r * args.k + args.k - 1];
        facts.floor = floor_for(metric == Metric::l2 ? -worst : worst, facts);
      }
      args.query_facts[r] = facts;
    }
  }
}

}  // namespace fct::cuda::topk
