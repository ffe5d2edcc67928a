// Upgrade: rows of (old, side) through h to rows of the new space, one fused pass a block of rows.
#pragma once

#include <cstdint>

#include "core/dispatch.hpp"
#include "core/matrix.hpp"
#include "core/packed_transform.hpp"
#include "core/row_status.hpp"
#include "core/thread_pool.hpp"

namespace fct {

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
