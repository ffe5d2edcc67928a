#include "core/topk.hpp"

#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bindings.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/metric.hpp"
#include "core/coarse_topk.hpp"

namespace fct::python {
namespace {

namespace py = pybind11;

// `gallery` is rows, or with `packed_rows` >= 0 the panels that pack_gallery wrote for that many rows.
void topk_arrays(const std::string& level, const py::object& queries, const py::object& gallery, int64_t packed_rows,
                 const std::string& metric, int64_t k, int64_t first_id, bool seeded, const py::object& scores,
                 const py::object& ids, int threads) {
  const Array query_array(queries, "queries", false);
  const Array gallery_array(gallery, "gallery", false);
  const Array score_array(scores, "scores", true);
  const Array id_array(ids, "ids", true);
  TopkCall call{.queries = query_array.matrix(),
                .gallery = {},
                .metric = metric_from(metric),
                .k = k,
                .first_id = first_id,
                .seeded = seeded,
                .threads = threads};
  if (packed_rows >= 0) {
    const int64_t floats = panels_of(packed_rows) * kPanelWidth * call.queries.cols;
    call.panels = gallery_array.vector<float>(floats);
    call.gallery.rows = packed_rows;
    call.gallery.cols = call.queries.cols;
  } else {
    call.gallery = gallery_array.matrix();
    check_same_dim(call.queries, call.gallery);
  }
  call.scores = score_array.vector<float>(call.queries.rows * k);
  call.ids = id_array.vector<int64_t>(call.queries.rows * k);
  const CpuLevel cpu_level = level_from_name(level);
  run_released([&](const StopFn& stop) { topk(cpu_level, call, stop); });
}

void pack_gallery_array(const std::string& level, const py::object& gallery, const std::string& metric,
                        const py::object& panels, int threads) {
  const Array gallery_array(gallery, "gallery", false);
  const MatrixView rows = gallery_array.matrix();
  const Array panel_array(panels, "panels", true);
  float* const target = panel_array.vector<float>(panels_of(rows.rows) * kPanelWidth * rows.cols);
  const Metric which = metric_from(metric);
  const CpuLevel cpu_level = level_from_name(level);
  run_released([&](const StopFn& stop) { pack_gallery(cpu_level, rows, which, target, threads, stop); });
}

// Bytes that pack_coarse_gallery fills for so many rows.
int64_t coarse_bytes(int64_t rows, int64_t dim) {
  if (rows < 0 || dim < 1) throw ShapeError("a gallery in int8 needs rows of at least one value");
  return coarse_size(rows, dim);
}

void pack_coarse_gallery(const std::string& level, const py::object& gallery, const std::string& metric,
                         const py::object& target, int threads) {
  const Array gallery_array(gallery, "gallery", false);
  const MatrixView rows = gallery_array.matrix();
  const Array target_array(target, "target", true);
  unsigned char* const bytes = target_array.vector<unsigned char>(coarse_bytes(rows.rows, rows.cols));
  const Metric which = metric_from(metric);
  const CpuLevel cpu_level = level_from_name(level);
  run_released([&](const StopFn& stop) { pack_coarse(cpu_level, rows, which, bytes, threads, stop); });
}

// `coarse` is what pack_coarse_gallery wrote for these rows and this metric.
void topk_coarse_arrays(const std::string& level, const py::object& queries, const py::object& gallery,
                        const py::object& coarse, const std::string& metric, int64_t k, int64_t first_id, bool seeded,
                        const py::object& scores, const py::object& ids, int threads) {
  const Array query_array(queries, "queries", false);
  const Array gallery_array(gallery, "gallery", false);
  const Array coarse_array(coarse, "coarse", false);
  const Array score_array(scores, "scores", true);
  const Array id_array(ids, "ids", true);
  TopkCall call{.queries = query_array.matrix(),
                .gallery = gallery_array.matrix(),
                .metric = metric_from(metric),
                .k = k,
                .first_id = first_id,
                .seeded = seeded,
                .threads = threads};
  check_same_dim(call.queries, call.gallery);
  const int64_t rows = call.gallery.rows, dim = call.gallery.cols;
  const CoarseGallery view = view_coarse(coarse_array.vector<unsigned char>(coarse_bytes(rows, dim)), rows, dim);
  call.scores = score_array.vector<float>(call.queries.rows * k);
  call.ids = id_array.vector<int64_t>(call.queries.rows * k);
  const CpuLevel cpu_level = level_from_name(level);
  run_released([&](const StopFn& stop) { topk_coarse(cpu_level, call, view, stop); });
}

}  // namespace

void bind_topk(py::module_& module) {
  module.attr("panel_width") = kPanelWidth;
  module.def("topk", topk_arrays);
  module.def("pack_gallery", pack_gallery_array);
  module.def("coarse_bytes", coarse_bytes);
  module.def("pack_coarse_gallery", pack_coarse_gallery);
  module.def("topk_coarse", topk_coarse_arrays);
}

}  // namespace fct::python
