// The search on a CUDA stream: its kernels, and the C ABI.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>

#include "core/error.hpp"
#include "cuda/topk/abi.h"
#include "cuda/topk/search.hpp"

namespace fct::cuda::topk {
namespace {

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads) topk_kernel(const typename Kernel::Args args) {
  extern __shared__ __align__(16) unsigned char shared[];
  Kernel::run(args, shared);
}

// A Device for search.hpp. The first error stays, and everything after it does nothing.
class StreamDevice {
 public:
  explicit StreamDevice(cudaStream_t stream) : stream_(stream) {}

  template <typename Kernel>
  void launch(int64_t blocks, int64_t shared_bytes, const typename Kernel::Args& args) {
    if (error_ != cudaSuccess) return;
    if (shared_bytes > kSharedWithoutAsking) {
      keep(cudaFuncSetAttribute(topk_kernel<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(shared_bytes)));
    }
    if (error_ != cudaSuccess) return;
    topk_kernel<Kernel><<<static_cast<unsigned>(blocks), Kernel::kThreads, shared_bytes, stream_>>>(args);
    keep(cudaGetLastError());
  }
  void zero(void* target, int64_t bytes) {
    if (error_ == cudaSuccess) keep(cudaMemsetAsync(target, 0, static_cast<std::size_t>(bytes), stream_));
  }
  uint32_t read(const uint32_t* source) {
    uint32_t value = 0;
    if (error_ == cudaSuccess) keep(cudaMemcpyAsync(&value, source, sizeof(value), cudaMemcpyDeviceToHost, stream_));
    if (error_ == cudaSuccess) keep(cudaStreamSynchronize(stream_));
    return error_ == cudaSuccess ? value : 0;
  }
  cudaError_t error() const { return error_; }

 private:
  static constexpr int64_t kSharedWithoutAsking = 48 << 10;

  void keep(cudaError_t error) {
    if (error_ == cudaSuccess) error_ = error;
  }

  cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
};

// The caller's device, given back at the end.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    error_ = cudaGetDevice(&before_);
    if (error_ == cudaSuccess) error_ = cudaSetDevice(device);
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  ~DeviceScope() {
    if (before_ >= 0) cudaSetDevice(before_);
  }
  cudaError_t error() const { return error_; }

 private:
  int before_ = -1;
  cudaError_t error_;
};

int32_t failed(int32_t status, cudaError_t code, const char* what, FctCudaTopkError* error) {
  error->cuda_error = static_cast<int32_t>(code);
  if (code == cudaSuccess) {
    std::snprintf(error->message, sizeof(error->message), "%s", what);
  } else {
    std::snprintf(error->message, sizeof(error->message), "%s: %s", what, cudaGetErrorString(code));
  }
  return status;
}

MatrixView view_of(const FctCudaTopkRows& rows) {
  return {static_cast<const unsigned char*>(rows.data), static_cast<Dtype>(rows.dtype), rows.rows, rows.cols,
          rows.row_stride};
}

bool is_aligned(const MatrixView& view) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.row_stride * size_of(view.dtype) % 16 == 0;
}

cudaError_t facts_of_device(int device, DeviceFacts& facts) {
  int major = 0, minor = 0, shared = 0;
  cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&facts.multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  facts.compute = 10 * major + minor;
  facts.shared_bytes = shared;
  return error;
}

// Checks the call, and makes its plan.
int32_t prepare(const FctCudaTopkCall& call, Plan& plan, FctCudaTopkError* error) {
  const auto is_dtype = [](int32_t dtype) { return dtype >= 0 && dtype <= 2; };
  if (!is_dtype(call.queries.dtype) || !is_dtype(call.gallery.dtype) || call.metric < 0 || call.metric > 2)
    return failed(FCT_CUDA_TOPK_SHAPE, cudaSuccess, "topk: unknown dtype or metric", error);
  if (call.queries.cols != call.gallery.cols)
    return failed(FCT_CUDA_TOPK_SHAPE, cudaSuccess, "topk: queries and gallery have different dimensions", error);
  if (call.k > call.gallery.rows + (call.seeded ? call.k : 0))
    return failed(FCT_CUDA_TOPK_SHAPE, cudaSuccess, "topk: k is out of range for this gallery", error);
  DeviceFacts facts;
  const cudaError_t code = facts_of_device(call.device, facts);
  if (code != cudaSuccess) return failed(FCT_CUDA_TOPK_DEVICE, code, "topk: the device cannot be asked", error);
  if (facts.compute < kMinCompute)
    return failed(FCT_CUDA_TOPK_DEVICE, cudaSuccess, "topk: the device is older than compute capability 8.0", error);
  const MatrixView gallery = view_of(call.gallery);
  plan = make_plan({.queries = call.queries.rows,
                    .rows = gallery.rows,
                    .cols = gallery.cols,
                    .k = call.k,
                    .query_dtype = static_cast<Dtype>(call.queries.dtype),
                    .gallery_dtype = gallery.dtype,
                    .gallery_aligned = is_aligned(gallery),
                    .coarse = call.coarse != 0},
                   facts, call.scratch_limit);
  return FCT_CUDA_TOPK_OK;
}

template <typename Run>
int32_t guarded(FctCudaTopkError* error, Run run) {
  std::memset(error, 0, sizeof(*error));
  try {
    return run();
  } catch (const ShapeError& problem) {
    return failed(FCT_CUDA_TOPK_SHAPE, cudaSuccess, problem.what(), error);
  } catch (const std::exception& problem) {
    return failed(FCT_CUDA_TOPK_INTERNAL, cudaSuccess, problem.what(), error);
  }
}

}  // namespace
}  // namespace fct::cuda::topk

using namespace fct::cuda::topk;

int32_t fct_cuda_topk_plan(const FctCudaTopkCall* call, FctCudaTopkPlan* result, FctCudaTopkError* error) {
  return guarded(error, [&] {
    Plan plan;
    const int32_t status = prepare(*call, plan, error);
    if (status != FCT_CUDA_TOPK_OK) return status;
    result->scratch_bytes = plan.scratch_bytes;
    std::snprintf(result->text, sizeof(result->text), "%s", plan.describe().c_str());
    return status;
  });
}

int32_t fct_cuda_topk(const FctCudaTopkCall* call, int64_t* unproved, FctCudaTopkError* error) {
  return guarded(error, [&] {
    const DeviceScope scope(call->device);
    if (scope.error() != cudaSuccess)
      return failed(FCT_CUDA_TOPK_DEVICE, scope.error(), "topk: the device cannot be used", error);
    Plan plan;
    const int32_t status = prepare(*call, plan, error);
    if (status != FCT_CUDA_TOPK_OK) return status;
    StreamDevice device(static_cast<cudaStream_t>(call->stream));
    const Call job{.queries = view_of(call->queries),
                   .gallery = view_of(call->gallery),
                   .metric = static_cast<Metric>(call->metric),
                   .k = call->k,
                   .first_id = call->first_id,
                   .seeded = call->seeded != 0,
                   .scores = call->scores,
                   .ids = call->ids,
                   .scratch = static_cast<unsigned char*>(call->scratch)};
    const Outcome outcome = search(device, plan, job);
    if (unproved != nullptr) *unproved = outcome.unproved;
    if (device.error() == cudaSuccess) return static_cast<int32_t>(FCT_CUDA_TOPK_OK);
    return failed(FCT_CUDA_TOPK_DEVICE, device.error(), plan.describe().c_str(), error);
  });
}
