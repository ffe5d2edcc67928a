// A forward transformation as the GPU reads it: one block of bytes, each layer's weights row-major in the compute type,
// every width padded to whole 16-byte chunks.
//
// Branches start at whole chunks of the concatenation, so the first trunk layer has gaps in its depth. Weights and bias
// of all padding are zeros: activations there stay zero, and no kernel has a special case for odd sizes.
//
// int8 is float32 with layers that read or write bytes; their weights are signed bytes with a scale a column.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/matrix.hpp"
#include "core/packed_transform.hpp"

namespace fct::cuda {

struct LayerLayout {
  int32_t depth = 0;    // padded
  int32_t columns = 0;  // padded
  bool relu = false;
  int64_t weight_at = 0;  // bytes from the block's start
  int64_t bias_at = 0;
  // In int8 alone. A layer that reads float32 has cuts, the places in its padded depth where a run of kDepthRun true
  // columns ends (args.hpp); one that reads bytes has scales.
  bool reads_bytes = false;
  bool writes_bytes = false;
  int64_t scale_at = 0;
  int64_t cuts_at = 0;
};

struct BranchLayout {
  bool reads_side = false;
  int32_t input_columns = 0;  // not padded
  int32_t columns = 0;        // padded width in the concatenation
  std::vector<LayerLayout> layers;
};

struct TransformLayout {
  Dtype precision = Dtype::f16;  // float32 where `int8` is set
  int32_t old_dim = 0;
  int32_t side_dim = 0;
  int32_t new_dim = 0;
  bool normalize = false;
  bool uncertainty = false;
  std::vector<BranchLayout> branches;
  std::vector<LayerLayout> trunk;
  int64_t bytes = 0;
  bool int8 = false;

  int64_t element_bytes(bool bytes_wide) const { return bytes_wide ? 1 : size_of(precision); }
  int32_t padded(int64_t columns, bool as_bytes = false) const {
    const int64_t unit = 16 / element_bytes(as_bytes);
    return static_cast<int32_t>((columns + unit - 1) / unit * unit);
  }
};

// Throws ShapeError where layers do not chain or are too wide. `source.precision` is looked at for int8 alone, where
// `precision` is float32.
TransformLayout layout_of(const TransformSource& source, Dtype precision);

// Writes layout.bytes bytes. Throws ShapeError where a weight is too large for the precision.
void pack_transform(const TransformSource& source, const TransformLayout& layout, unsigned char* target);

}  // namespace fct::cuda
