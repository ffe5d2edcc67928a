// What the test of the whole int8 upgrade is made of: transforms with bytes and float32 in any order, and rows of any
// dtype.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <vector>

#include "check.hpp"
#include "core/half.hpp"
#include "core/matrix.hpp"
#include "core/packed_transform.hpp"

namespace fct::cuda::testing {

using fct::testing::fill_normal;
using fct::testing::Guarded;

// Weights that spread activations over the bytes.
struct Linear {
  Linear(int64_t in_dim, int64_t out_dim, bool reads_bytes, bool narrow, bool relu, uint32_t seed)
      : weight(static_cast<std::size_t>(in_dim * out_dim)),
        bias(static_cast<std::size_t>(out_dim)),
        scale(bias.size()),
        quantized(weight.size()) {
    fill_normal(weight.data(), in_dim * out_dim, seed);
    fill_normal(bias.data(), out_dim, seed + 1);
    fill_normal(scale.data(), out_dim, seed + 2);
    const float depth = std::sqrt(static_cast<float>(in_dim)), wanted = narrow ? 70.0f : 1.0f;
    for (std::size_t i = 0; i < weight.size(); ++i) {
      quantized[i] = static_cast<int8_t>(std::clamp(40 * weight[i], -127.0f, 127.0f));
      weight[i] *= wanted / depth;
    }
    for (std::size_t o = 0; o < bias.size(); ++o) {
      bias[o] *= wanted / 4;
      scale[o] = wanted / depth / 4000 * (1 + std::fabs(scale[o]));
    }
    source = {.weight = reads_bytes ? nullptr : weight.data(),
              .bias = bias.data(),
              .in_dim = in_dim,
              .out_dim = out_dim,
              .relu = relu,
              .quantized = reads_bytes ? quantized.data() : nullptr,
              .scale = reads_bytes ? scale.data() : nullptr,
              .narrow = narrow};
  }
  std::vector<float> weight, bias, scale;
  std::vector<int8_t> quantized;
  LayerSource source;
};

// A width, and what its layer writes: bytes, float32 after ReLU, or float32.
enum class Writes { bytes, relu, plain };
struct Width {
  int64_t columns;
  Writes writes = Writes::bytes;
};

struct Transform {
  Transform(int64_t old_dim, int64_t side_dim, int64_t new_dim, bool uncertainty)
      : source{old_dim, side_dim, new_dim, true, uncertainty, Precision::int8, {}, {}} {}

  // The paper's h: old -> 2 old -> 2 new, side alike, concatenation -> inner -> inner -> new.
  static Transform standard(int64_t old_dim, int64_t side_dim, int64_t new_dim, int64_t inner, bool uncertainty) {
    Transform h(old_dim, side_dim, new_dim, uncertainty);
    h.branch(false, old_dim, {{2 * old_dim}, {2 * new_dim}});
    if (side_dim > 0) h.branch(true, side_dim, {{2 * side_dim}, {2 * new_dim}});
    h.trunk({{inner}, {inner}, {new_dim + uncertainty, Writes::plain}});
    return h;
  }
  void branch(bool reads_side, int64_t width, std::vector<Width> widths) {
    source.branches.push_back({reads_side, stack(width, false, widths)});
    concat += widths.empty() ? width : widths.back().columns;
    bytes = !widths.empty() && widths.back().writes == Writes::bytes;
  }
  void trunk(const std::vector<Width>& widths) { source.trunk = stack(concat, bytes, widths); }

  std::vector<LayerSource> stack(int64_t width, bool reads_bytes, const std::vector<Width>& widths) {
    std::vector<LayerSource> layers;
    for (const Width& to : widths) {
      const bool narrow = to.writes == Writes::bytes;
      layers.push_back(
          kept.emplace_back(width, to.columns, reads_bytes, narrow, to.writes != Writes::plain, seed += 3).source);
      reads_bytes = narrow;
      width = to.columns;
    }
    return layers;
  }

  TransformSource source;
  int64_t concat = 0;
  bool bytes = false;
  uint32_t seed = 1;
  std::deque<Linear> kept;
};

// Rows of a dtype, in memory that ends with the last value.
struct CallerRows {
  CallerRows(int64_t row_count, int64_t column_count, Dtype type)
      : rows(row_count), columns(column_count), dtype(type), memory(row_count * column_count * size_of(type)) {
    std::memset(memory.data(), 0xff, static_cast<std::size_t>(bytes()));
  }
  int64_t bytes() const { return rows * columns * size_of(dtype); }
  void set(int64_t r, int64_t c, float x) {
    unsigned char* const at = memory.data() + (r * columns + c) * size_of(dtype);
    const uint16_t bits = dtype == Dtype::f16 ? half_from_float(x) : bfloat_from_float(x);
    std::memcpy(at, dtype == Dtype::f32 ? static_cast<const void*>(&x) : &bits,
                static_cast<std::size_t>(size_of(dtype)));
  }
  void fill(uint32_t seed) {
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    fill_normal(values.data(), rows * columns, seed);
    for (int64_t i = 0; i < rows * columns; ++i) set(i / columns, i % columns, values[static_cast<std::size_t>(i)]);
  }
  MatrixView view() const { return {memory.data(), dtype, rows, columns, columns}; }
  MutableMatrixView view() { return {memory.data(), dtype, rows, columns, columns}; }

  int64_t rows, columns;
  Dtype dtype;
  Guarded<unsigned char> memory;
};

}  // namespace fct::cuda::testing
