// A block of rows in int8: layers on bytes where they can be, float32 at both ends.
#pragma once

#include "core/upgrade_rows.hpp"

namespace fct {

// The same bits at every level (the definition: cpu/kernel_table.hpp).
void upgrade_int8_block(const PackedTransform& packed, CpuLevel level, BlockRows& rows);

}  // namespace fct
