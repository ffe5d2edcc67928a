#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "bindings/bindings.hpp"
#include "bindings/cuda_library.hpp"
#include "bindings/dlpack.hpp"

namespace fct::python {
namespace {

namespace py = pybind11;

int32_t metric_code(const std::string& name) {
  if (name == "cosine") return FCT_CUDA_COSINE;
  if (name == "ip") return FCT_CUDA_INNER_PRODUCT;
  if (name == "l2") return FCT_CUDA_L2;
  throw ShapeError("metric is '" + name + "'; use 'cosine', 'ip' or 'l2'");
}

int32_t coarse_code(const std::string& name) {
  if (name == "fp32") return FCT_CUDA_FLOAT_SCORES;
  if (name == "fp16") return FCT_CUDA_HALF_SCORES;
  if (name == "int8") return FCT_CUDA_BYTE_SCORES;
  throw ShapeError("coarse scores are '" + name + "'; use 'fp32', 'fp16' or 'int8'");
}

FctCudaRows rows_of(const MatrixView& view) {
  return {const_cast<unsigned char*>(view.data), view.row_stride, static_cast<int32_t>(view.dtype), 0};
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
  if (query_rows.cols != gallery_rows.cols) {
    throw ShapeError("queries have " + std::to_string(query_rows.cols) + " dimensions and the gallery has " +
                     std::to_string(gallery_rows.cols) + "; they must be embeddings of one space");
  }
  FctCudaTopkCall call{};
  call.queries = rows_of(query_rows);
  call.gallery = rows_of(gallery_rows);
  call.query_rows = query_rows.rows;
  call.gallery_rows = gallery_rows.rows;
  call.cols = query_rows.cols;
  call.k = k;
  call.first_id = first_id;
  call.scores = score_array.vector<float>(query_rows.rows * k);
  call.ids = id_array.vector<int64_t>(query_rows.rows * k);
  call.metric = metric_code(metric);
  call.coarse = coarse_code(coarse);
  call.seeded = seeded;
  call.device = device;
  call.scratch_limit = scratch_limit;
  call.stream = reinterpret_cast<void*>(stream);
  run_released([&](const StopFn& stop) {
    call.stop = [](void* context) -> int32_t { return (*static_cast<const StopFn*>(context))(); };
    call.stop_context = const_cast<StopFn*>(&stop);
    FctCudaError error;
    check_cuda(library.topk(&call, &error), error);
  });
  return py::make_tuple(call.scratch_bytes, call.unproved);
}

}  // namespace

void bind_cuda_topk(py::module_& module) { module.def("cuda_topk", cuda_topk); }

}  // namespace fct::python
