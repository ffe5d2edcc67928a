#include <pybind11/pybind11.h>

#include <string>

#include "bindings/cuda_call.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/metric.hpp"
#include "bindings/rank_arrays.hpp"

namespace fct::python {
namespace {

namespace py = pybind11;

// Queries and gallery on the device, classes and results on the host. Returns the bytes of scratch.
int64_t cuda_rank(int32_t device, const py::object& queries, const py::object& gallery, const std::string& metric,
                  const py::object& query_classes, const py::object& class_starts, const py::object& class_rows,
                  bool exclude_self, const py::object& first_rank, const py::object& average_precision,
                  const py::object& positives, int64_t scratch_limit, uintptr_t stream) {
  const CudaLibrary& library = CudaLibrary::get();
  const Array query_array(queries, "queries", false, device), gallery_array(gallery, "gallery", false, device);
  const MatrixView query_rows = query_array.matrix(), gallery_rows = gallery_array.matrix();
  check_same_dim(query_rows, gallery_rows);
  const RankArrays arrays(query_rows.rows, gallery_rows.rows, query_classes, class_starts, class_rows, exclude_self,
                          first_rank, average_precision, positives);
  FctCudaRankCall call{};
  call.queries = cuda_rows(query_rows);
  call.gallery = cuda_rows(gallery_rows);
  call.query_rows = query_rows.rows;
  call.gallery_rows = gallery_rows.rows;
  call.cols = query_rows.cols;
  call.query_classes = arrays.input.query_classes;
  call.class_starts = arrays.input.class_starts;
  call.class_rows = arrays.input.class_rows;
  call.first_rank = arrays.result.first_rank;
  call.average_precision = arrays.result.average_precision;
  call.positives = arrays.result.positives;
  call.metric = cuda_metric(metric);
  call.exclude_self = exclude_self;
  call.device = device;
  call.scratch_limit = scratch_limit;
  call.stream = reinterpret_cast<void*>(stream);
  call_cuda(call, library.rank);
  return call.scratch_bytes;
}

}  // namespace

void bind_cuda_rank(py::module_& module) { module.def("cuda_rank", cuda_rank); }

}  // namespace fct::python
