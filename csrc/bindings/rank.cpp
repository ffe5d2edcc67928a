#include "core/rank.hpp"

#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bindings.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/metric.hpp"
#include "bindings/rank_arrays.hpp"
#include "core/rank_curve.hpp"

namespace fct::python {
namespace {

namespace py = pybind11;

void rank_arrays(const std::string& level, const py::object& queries, const py::object& gallery,
                 const std::string& metric, const py::object& query_classes, const py::object& class_starts,
                 const py::object& class_rows, bool exclude_self, const py::object& first_rank,
                 const py::object& average_precision, const py::object& positives, int threads) {
  const Array query_array(queries, "queries", false);
  const Array gallery_array(gallery, "gallery", false);
  RankCall call{.queries = query_array.matrix(),
                .gallery = gallery_array.matrix(),
                .metric = metric_from(metric),
                .threads = threads};
  check_same_dim(call.queries, call.gallery);
  const RankArrays arrays(call.queries.rows, call.gallery.rows, query_classes, class_starts, class_rows, exclude_self,
                          first_rank, average_precision, positives);
  call.positives = arrays.input;
  call.result = arrays.result;
  const CpuLevel cpu_level = level_from_name(level);
  run_released([&](const StopFn& stop) { rank(cpu_level, call, stop); });
}

void rank_score_array(const std::string& level, const py::object& scores, const py::object& query_classes,
                      const py::object& class_starts, const py::object& class_rows, bool exclude_self,
                      const py::object& first_rank, const py::object& average_precision, const py::object& positives,
                      int threads) {
  const Array score_array(scores, "scores", false);
  const MatrixView view = score_array.matrix();
  if (view.dtype != Dtype::f32) throw DtypeError("scores must be float32");
  const RankArrays arrays(view.rows, view.cols, query_classes, class_starts, class_rows, exclude_self, first_rank,
                          average_precision, positives);
  const CpuLevel cpu_level = level_from_name(level);
  run_released([&](const StopFn& stop) { rank_scores(cpu_level, view, arrays.input, arrays.result, threads, stop); });
}

// first_rank and average_precision are [points * queries].
void rank_curve_arrays(const std::string& level, const py::object& queries, const py::object& before,
                       const py::object& after, const py::object& replaced_at, int32_t points,
                       const std::string& metric, const py::object& query_classes, const py::object& class_starts,
                       const py::object& class_rows, bool exclude_self, const py::object& first_rank,
                       const py::object& average_precision, int threads) {
  const Array query_array(queries, "queries", false);
  const Array before_array(before, "before", false);
  const Array after_array(after, "after", false);
  const Array replaced_array(replaced_at, "replaced_at", false);
  const Array first_rank_array(first_rank, "first_rank", true);
  const Array precision_array(average_precision, "average_precision", true);
  CurveCall call{.queries = query_array.matrix(),
                 .before = before_array.matrix(),
                 .after = after_array.matrix(),
                 .replaced_at = nullptr,
                 .points = points,
                 .metric = metric_from(metric),
                 .threads = threads};
  check_same_dim(call.queries, call.before);
  check_same_dim(call.queries, call.after);
  const int64_t rows = call.before.rows;
  if (call.after.rows != rows) throw ShapeError("before and after must have the same rows");
  if (points < 1) throw ShapeError("a curve has at least one point");
  call.replaced_at = replaced_array.vector<int32_t>(rows);
  for (int64_t i = 0; i < rows; ++i) {
    if (call.replaced_at[i] < 0 || call.replaced_at[i] > points) throw ShapeError("replaced_at is outside the curve");
  }
  const PositiveArrays positives(call.queries.rows, rows, query_classes, class_starts, class_rows, exclude_self);
  call.positives = positives.input;
  call.result = {.first_rank = first_rank_array.vector<int64_t>(points * call.queries.rows),
                 .average_precision = precision_array.vector<double>(points * call.queries.rows)};
  const CpuLevel cpu_level = level_from_name(level);
  run_released([&](const StopFn& stop) { rank_curve(cpu_level, call, stop); });
}

}  // namespace

void bind_rank(py::module_& module) {
  module.def("rank", rank_arrays);
  module.def("rank_scores", rank_score_array);
  module.def("rank_curve", rank_curve_arrays);
}

}  // namespace fct::python
