#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "bindings/cuda_call.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/metric.hpp"

namespace fct::python {
namespace {

namespace py = pybind11;

int32_t coarse_code(const std::string& name) {
  if (name == "fp32") return FCT_CUDA_FLOAT_SCORES;
  if (name == "fp16") return FCT_CUDA_HALF_SCORES;
  if (name == "int8") return FCT_CUDA_BYTE_SCORES;
  throw ShapeError("coarse scores are '" + name + "'; use 'fp32', 'fp16' or 'int8'");
}

// Arrays on the device; scores and ids are flat; coarse: the scores that choose what is scored in float32, "fp32" for
// all rows. Returns (bytes of scratch, queries that coarse scores did not decide).
py::tuple cuda_topk(int32_t device, const py::object& queries, const py::object& gallery, const std::string& metric,
                    int64_t k, int64_t first_id, bool seeded, const std::string& coarse, const py::object& scores,
                    const py::object& ids, int64_t scratch_limit, uintptr_t stream) {
  const CudaLibrary& library = CudaLibrary::get();
  const Array query_array(queries, "queries", false, device), gallery_array(gallery, "gallery", false, device);
  const Array score_array(scores, "scores", true, device), id_array(ids, "ids", true, device);
  const MatrixView query_rows = query_array.matrix(), gallery_rows = gallery_array.matrix();
  check_same_dim(query_rows, gallery_rows);
  FctCudaTopkCall call{};
  call.queries = cuda_rows(query_rows);
  call.gallery = cuda_rows(gallery_rows);
  call.query_rows = query_rows.rows;
  call.gallery_rows = gallery_rows.rows;
  call.cols = query_rows.cols;
  call.k = k;
  call.first_id = first_id;
  call.scores = score_array.vector<float>(query_rows.rows * k);
  call.ids = id_array.vector<int64_t>(query_rows.rows * k);
  call.metric = cuda_metric(metric);
  call.coarse = coarse_code(coarse);
  call.seeded = seeded;
  call.device = device;
  call.scratch_limit = scratch_limit;
  call.stream = reinterpret_cast<void*>(stream);
  call_cuda(call, library.topk);
  return py::make_tuple(call.scratch_bytes, call.unproved);
}

}  // namespace

void bind_cuda_topk(py::module_& module) { module.def("cuda_topk", cuda_topk); }

}  // namespace fct::python
