// The arrays that rankings are made of, on the CPU and on a GPU: which rows are positives, and where results go.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>

#include "bindings/dlpack.hpp"
#include "core/error.hpp"
#include "core/rank.hpp"

namespace fct::python {

// The arrays of a Positives, checked against each other: kernels index with them.
class PositiveArrays {
 public:
  PositiveArrays(int64_t queries, int64_t rows, const py::object& query_classes, const py::object& class_starts,
                 const py::object& class_rows, bool exclude_self)
      : query_classes_(query_classes, "query_classes", false),
        class_starts_(class_starts, "class_starts", false),
        class_rows_(class_rows, "class_rows", false) {
    const int64_t classes = class_starts_.size() - 1;
    input = {.query_classes = query_classes_.vector<int64_t>(queries),
             .class_starts = class_starts_.vector<int64_t>(classes + 1),
             .class_rows = class_rows_.vector<int64_t>(rows),
             .exclude_self = exclude_self};
    bool sound = classes >= 0 && input.class_starts[0] == 0 && input.class_starts[classes] == rows;
    for (int64_t c = 0; sound && c < classes; ++c) sound = input.class_starts[c] <= input.class_starts[c + 1];
    for (int64_t i = 0; sound && i < rows; ++i) sound = input.class_rows[i] >= 0 && input.class_rows[i] < rows;
    for (int64_t c = 0; sound && c < classes; ++c) {
      sound = std::is_sorted(input.class_rows + input.class_starts[c], input.class_rows + input.class_starts[c + 1]);
    }
    for (int64_t i = 0; sound && i < queries; ++i)
      sound = input.query_classes[i] >= -1 && input.query_classes[i] < classes;
    if (!sound || (exclude_self && queries > rows))
      throw ShapeError("the class table does not fit queries and gallery");
  }

  Positives input;

 private:
  Array query_classes_, class_starts_, class_rows_;
};

// The same with the arrays of a RankResult.
class RankArrays : public PositiveArrays {
 public:
  RankArrays(int64_t queries, int64_t rows, const py::object& query_classes, const py::object& class_starts,
             const py::object& class_rows, bool exclude_self, const py::object& first_rank,
             const py::object& average_precision, const py::object& positives)
      : PositiveArrays(queries, rows, query_classes, class_starts, class_rows, exclude_self),
        first_rank_(first_rank, "first_rank", true),
        average_precision_(average_precision, "average_precision", true),
        positives_(positives, "positives", true) {
    result = {.first_rank = first_rank_.vector<int64_t>(queries),
              .average_precision = average_precision_.vector<double>(queries),
              .positives = positives_.vector<int64_t>(queries)};
  }

  RankResult result;

 private:
  Array first_rank_, average_precision_, positives_;
};

}  // namespace fct::python
