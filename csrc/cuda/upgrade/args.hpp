// Arguments of the upgrade's kernels. Strides count elements; pointers and strides of scratch are multiples of 16
// bytes.
#pragma once

#include <cstdint>

#include "core/row_status.hpp"

namespace fct::cuda {

constexpr unsigned char kRowOk = static_cast<unsigned char>(RowStatus::ok);
constexpr unsigned char kRowNonfiniteInput = static_cast<unsigned char>(RowStatus::nonfinite_input);
constexpr unsigned char kRowZeroNorm = static_cast<unsigned char>(RowStatus::zero_norm);
constexpr unsigned char kRowOverflow = static_cast<unsigned char>(RowStatus::overflow);

// Input rows, as the caller holds them -> rows of the compute type, padded with zeros to whole 16-byte chunks.
struct LoadArgs {
  const void* source;  // any alignment and stride that its elements allow
  int64_t source_stride;
  int32_t source_dtype;  // fct::Dtype
  int32_t columns;
  void* target;
  int64_t target_stride;
  int64_t rows;
  unsigned char* status;  // [rows]; rows with NaN or Inf get nonfinite_input
};

// y = x weight^T + bias, with ReLU where asked. Padding columns carry zeros through: their weights and bias are zero.
// In int8 a layer reads float32 or bytes, and writes either; see upgrade/requantise.hpp.
struct LayerArgs {
  const void* x;  // [rows, depth]
  int64_t x_stride;
  const void* weight;  // [columns, depth], contiguous
  const float* bias;   // [columns]
  void* y;             // [rows, columns]: the compute type, or float32 for the last layer
  int64_t y_stride;
  int64_t rows;
  int32_t depth;    // whole chunks
  int32_t columns;  // whole chunks
  int32_t relu;
  unsigned char* status;  // [rows], or null; rows whose y leaves a 16-bit type's range get overflow
  // In int8 alone, else null and 0.
  const float* scale = nullptr;   // [columns] of a layer that reads bytes; else `cuts` is there
  const int32_t* cuts = nullptr;  // where the float32 sums are cut, ascending, ending with kNoCut
  int32_t narrow = 0;             // y is bytes
  // Where several blocks share the depth of a tile (split.hpp), else 1 and null.
  int32_t splits = 1;
  float* parts = nullptr;        // as many bytes as the plan says
  uint32_t* arrivals = nullptr;  // [tiles], zeros before and after
};

constexpr int32_t kNoCut = INT32_MAX;

// float32 rows of the last layer -> unit rows (or rows as they are) of the caller's type, and each row's status.
struct FinishArgs {
  const float* x;
  int64_t x_stride;
  void* out;
  int64_t out_stride;
  int32_t out_dtype;  // fct::Dtype
  int32_t columns;
  int32_t normalize;
  int32_t has_uncertainty;  // column `columns` of x is the uncertainty
  float* uncertainty;       // [rows] or null
  int64_t rows;
  unsigned char* status;  // [rows], RowStatus
  int32_t ordered = 0;    // squares are summed in the one order that int8 has everywhere
};

}  // namespace fct::cuda
