// Upgrade: rows of (old, side) through h to rows of the new space, one fused pass a block of rows.
#pragma once

#include <cstdint>

#include "core/dispatch.hpp"
#include "core/matrix.hpp"
#include "core/packed_transform.hpp"
#include "core/thread_pool.hpp"

namespace fct {

// What became of a row. Everything but ok is written as a zero row.
enum class RowStatus : unsigned char {
  ok = 0,
  nonfinite_input = 1,  // NaN or Inf in old or side
  zero_norm = 2,        // the output's norm is zero or below the smallest normal float
  overflow = 3,         // the output is not finite in float32, or not in a float16 `out`
};

struct UpgradeCall {
  MatrixView old;
  MatrixView side;                  // rows 0 where h has no side-information
  MutableMatrixView out;            // [rows, new_dim]
  float* uncertainty = nullptr;     // [rows] or null
  unsigned char* status = nullptr;  // [rows], a RowStatus each
  int threads = 1;
};

// Fills `out`, `uncertainty` and `status`. A row's bits depend on the row, the weights and the level alone.
// Throws ShapeError where dims do not fit, Interrupted where `stop` said so.
void upgrade(const PackedTransform& packed, CpuLevel level, const UpgradeCall& call, const StopFn& stop = {});

}  // namespace fct
