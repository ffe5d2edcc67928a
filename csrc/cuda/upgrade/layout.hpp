// A forward transformation as the GPU reads it: one block of bytes, each layer's weights row-major in the compute type,
// every width padded to whole 16-byte chunks.
//
// Branches start at whole chunks of the concatenation, so the first trunk layer has gaps in its depth. Weights and bias
// of all padding are zeros: activations there stay zero, and no kernel has a special case for odd sizes.
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
};

struct BranchLayout {
  bool reads_side = false;
  int32_t input_columns = 0;  // not padded
  int32_t columns = 0;        // padded width in the concatenation
  std::vector<LayerLayout> layers;
};

struct TransformLayout {
  Dtype precision = Dtype::f16;
  int32_t old_dim = 0;
  int32_t side_dim = 0;
  int32_t new_dim = 0;
  bool normalize = false;
  bool uncertainty = false;
  std::vector<BranchLayout> branches;
  std::vector<LayerLayout> trunk;
  int64_t bytes = 0;

  int32_t padded(int64_t columns) const {
    const int64_t unit = 16 / size_of(precision);
    return static_cast<int32_t>((columns + unit - 1) / unit * unit);
  }
};

// Throws ShapeError where layers do not chain or are too wide. `source.precision` is not looked at.
TransformLayout layout_of(const TransformSource& source, Dtype precision);

// Writes layout.bytes bytes. Throws ShapeError where a weight is too large for the precision.
void pack_transform(const TransformSource& source, const TransformLayout& layout, unsigned char* target);

}  // namespace fct::cuda
