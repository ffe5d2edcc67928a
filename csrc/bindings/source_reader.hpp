// A transform as Python describes it: (weight, bias, relu) a layer, in int8 (weight, bias, relu, scale or None, narrow,
// in_dim), where a weight that goes with a scale is flat int8; (reads_side, layers) a branch.
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <vector>

#include "bindings/dlpack.hpp"
#include "core/error.hpp"
#include "core/packed_transform.hpp"

namespace fct::python {

// Holds the arrays behind a TransformSource; a deque, since the source points into them.
class SourceReader {
 public:
  TransformSource transform(int64_t old_dim, int64_t side_dim, int64_t new_dim, bool normalize, bool uncertainty,
                            const py::list& branches, const py::list& trunk, bool int8 = false) {
    int8_ = int8;
    TransformSource source{.old_dim = old_dim,
                           .side_dim = side_dim,
                           .new_dim = new_dim,
                           .normalize = normalize,
                           .uncertainty = uncertainty,
                           .precision = Precision::fp32,
                           .branches = {},
                           .trunk = {}};
    for (const py::handle& item : branches) {
      const py::tuple branch = item.cast<py::tuple>();
      source.branches.push_back({.reads_side = branch[0].cast<bool>(), .layers = layers(branch[1])});
    }
    source.trunk = layers(trunk);
    return source;
  }

 private:
  LayerSource layer(const py::tuple& fields) {
    if (int8_ && !fields[3].is_none()) return int8_layer(fields);
    const MatrixView weight = arrays_.emplace_back(fields[0], "weight", false).matrix();
    if (weight.dtype != Dtype::f32 || weight.row_stride != weight.cols)
      throw DtypeError("weight must be contiguous float32");
    const float* bias = arrays_.emplace_back(fields[1], "bias", false).vector<float>(weight.rows);
    return {.weight = reinterpret_cast<const float*>(weight.data),
            .bias = bias,
            .in_dim = weight.cols,
            .out_dim = weight.rows,
            .relu = fields[2].cast<bool>(),
            .narrow = int8_ && fields[4].cast<bool>()};
  }

  LayerSource int8_layer(const py::tuple& fields) {
    const Array& scale = arrays_.emplace_back(fields[3], "scale", false);
    const int64_t in_dim = fields[5].cast<int64_t>(), out_dim = scale.size();
    const float* bias = arrays_.emplace_back(fields[1], "bias", false).vector<float>(out_dim);
    return {.weight = nullptr,
            .bias = bias,
            .in_dim = in_dim,
            .out_dim = out_dim,
            .relu = fields[2].cast<bool>(),
            .quantized = arrays_.emplace_back(fields[0], "weight", false).vector<int8_t>(in_dim * out_dim),
            .scale = scale.vector<float>(out_dim),
            .narrow = fields[4].cast<bool>()};
  }

  std::vector<LayerSource> layers(const py::handle& list) {
    std::vector<LayerSource> result;
    for (const py::handle& item : list) result.push_back(layer(item.cast<py::tuple>()));
    return result;
  }

  bool int8_ = false;
  std::deque<Array> arrays_;
};

}  // namespace fct::python
