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
  // Operands [rows, packed_stride]: in int8 (BytePair), or scaled by a power of two to a maximum in [1, 2) where Stored
  // is not Operand; zeros from cols on, and for rows treated apart.
  Operand* packed;
  int64_t packed_stride;
  double error;  // E, for the facts
  RowFacts* row_facts;
  QueryFacts* query_facts;
  const float* seeds;  // scores [rows, k] of earlier pieces of the gallery, as the user sees them, for query_facts
  int64_t k;
  // The largest loss of a block's queries, a float's bits: raised where query facts are made, read where row facts are.
  // Null where no fact of a row depends on it.
  uint32_t* query_loss;
};

// The power of two that brings the row's largest magnitude to [1, 2); 1 for zeros.
template <typename T>
FCT_DEVICE float power_of_row(const T* row, int cols) {
  const uint32_t largest = largest_of_row(row, cols);
  return largest == 0 ? 1.0f : float_from_bits(largest & 0x7f800000u);
}

// By one warp; what is not ordinary becomes zeros.
template <typename Stored, typename Operand>
FCT_DEVICE Packed pack_row(const Stored* row, int cols, double squares, bool ordinary, Operand* target,
                           int64_t stride) {
  constexpr bool kConverted = !std::is_same_v<Stored, Operand>;
  if constexpr (std::is_same_v<Operand, BytePair>) {
    return quantise_row(row, ordinary ? cols : 0, ordinary ? squares : 0.0, target, stride);
  } else {
    const float power = kConverted && ordinary ? power_of_row(row, cols) : 1.0f;
    for (int64_t c = lane_index(); c < stride; c += kWarpLanes) {
      const float x = c < cols && ordinary ? widen(row[c]) : 0.0f;
      target[c] = narrowed<Operand>(kConverted ? x / power : x);
    }
    return {power, 0.0};
  }
}

constexpr double kRoundUp = 1.0 + 0x1p-22;  // a cast to float of a number times this is not below the number

template <Metric metric, typename Stored, typename Operand>
FCT_DEVICE void rows_body(const RowsArgs<Stored, Operand>& args, unsigned char*) {
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
    Packed packed{1.0, 0.0};
    if (args.packed != nullptr) {
      packed = pack_row(row, cols, squares, ordinary, args.packed + r * args.packed_stride, args.packed_stride);
    }
    if (lane_index() != 0) continue;
    if (args.scales != nullptr) args.scales[r] = scale;
    if (args.row_facts != nullptr) {
      const float loss = args.query_loss != nullptr ? float_from_bits(*args.query_loss) : 0.0f;
      args.row_facts[r] = facts_of_row<metric>(squares, packed, args.error + loss);
    }
    if (args.query_facts != nullptr) {
      if (args.query_loss != nullptr) atomic_max(args.query_loss, bits_of(static_cast<float>(packed.loss * kRoundUp)));
      QueryFacts facts = facts_of_query<metric>(squares, packed, args.error);
      if (args.seeds != nullptr) {
        const float worst = args.seeds[r * args.k + args.k - 1];
        facts.floor = floor_for(metric == Metric::l2 ? -worst : worst, facts);
      }
      args.query_facts[r] = facts;
    }
  }
}

}  // namespace fct::cuda::topk
