// A forward transformation laid out for the kernels, as one relocatable block of bytes.
//
// Bytes, not a handle: Python keeps them in an array, torch.export writes them into a program. The block is checked
// each time it comes back, since it may come from a file. It holds 16-wide panels (cpu/kernel_table.hpp) and serves
// every CPU level.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernel_table.hpp"

namespace fct {

struct LayerSource {
  const float* weight;  // [out_dim, in_dim], contiguous; null where `quantized` is there
  const float* bias;    // [out_dim]
  int64_t in_dim;
  int64_t out_dim;
  bool relu;
  // In int8 alone, scales folded in (fct_fast/kernels/int8.py): a layer that reads bytes has these two, and any but
  // the last may write bytes.
  const int8_t* quantized = nullptr;  // [out_dim, in_dim], contiguous
  const float* scale = nullptr;       // [out_dim]
  bool narrow = false;
};

struct BranchSource {
  bool reads_side;
  std::vector<LayerSource> layers;
};

enum class Precision : int64_t { fp32 = 0, bf16 = 1, int8 = 2 };

struct TransformSource {
  int64_t old_dim;
  int64_t side_dim;
  int64_t new_dim;
  bool normalize;
  bool uncertainty;
  Precision precision;
  std::vector<BranchSource> branches;
  std::vector<LayerSource> trunk;
};

// Bytes that pack_transform writes for this source.
int64_t packed_size(const TransformSource& source);

// Writes the packed form to target[0 .. packed_size). Throws ShapeError where layers do not chain.
void pack_transform(const TransformSource& source, unsigned char* target);

// A view on packed bytes.
struct PackedLayer {
  const void* panels;  // float32, bfloat16 in pairs or int8 in quads of depth steps (cpu/kernel_table.hpp)
  const float* bias;   // [16 * panel_count]
  int64_t in_dim;
  int64_t out_dim;
  bool relu;
  const float* scale = nullptr;  // [16 * panel_count] of a layer that reads bytes, else null
  bool narrow = false;           // writes bytes

  int64_t panel_count() const { return (out_dim + kPanelWidth - 1) / kPanelWidth; }
};

struct PackedBranch {
  bool reads_side;
  int64_t out_dim;
  std::vector<PackedLayer> layers;
};

struct PackedTransform {
  int64_t old_dim;
  int64_t side_dim;
  int64_t new_dim;
  bool normalize;
  bool uncertainty;
  Precision precision;
  std::vector<PackedBranch> branches;
  std::vector<PackedLayer> trunk;
  int64_t concat_dim;
  int64_t widest;  // widest row of activations, inputs and outputs included
};

// Throws DtypeError where the bytes are no packed transform of this version, or are damaged in their table.
PackedTransform view_packed(const unsigned char* bytes, int64_t size);

}  // namespace fct
