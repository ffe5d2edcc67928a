// What calls into the CUDA library share: metrics and rows as its C ABI has them, and a call that Ctrl-C ends.
#pragma once

#include <string>

#include "bindings/bindings.hpp"
#include "bindings/cuda_library.hpp"
#include "bindings/metric.hpp"
#include "core/matrix.hpp"

namespace fct::python {

static_assert(static_cast<int32_t>(Metric::cosine) == FCT_CUDA_COSINE &&
              static_cast<int32_t>(Metric::inner_product) == FCT_CUDA_INNER_PRODUCT &&
              static_cast<int32_t>(Metric::l2) == FCT_CUDA_L2);

inline int32_t cuda_metric(const std::string& name) { return static_cast<int32_t>(metric_from(name)); }

inline FctCudaRows cuda_rows(const MatrixView& view) {
  return {const_cast<unsigned char*>(view.data), view.row_stride, static_cast<int32_t>(view.dtype), 0};
}

inline FctCudaRows cuda_rows(const MutableMatrixView& view) {
  return {view.data, view.row_stride, static_cast<int32_t>(view.dtype), 0};
}

// function(&call, &error) without the GIL. Throws what the library reports, and Interrupted.
template <typename Call, typename Function>
void call_cuda(Call& call, Function function) {
  run_released([&](const StopFn& stop) {
    call.stop = [](void* context) -> int32_t { return (*static_cast<const StopFn*>(context))(); };
    call.stop_context = const_cast<StopFn*>(&stop);
    FctCudaError error;
    const int32_t code = function(&call, &error);
    check_cuda(code, error);
  });
}

}  // namespace fct::python
