// What the library's .cu files share: CUDA errors as exceptions inside, codes and sentences at the C boundary.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "core/error.hpp"
#include "cuda/abi.h"
#include "cuda/device.hpp"

namespace fct::cuda {

// A CUDA call that failed.
struct CudaFailure : DeviceError {
  CudaFailure(cudaError_t error, const std::string& sentence) : DeviceError(sentence), code(error) {}
  const cudaError_t code;
};

// Throws CudaFailure where there is an error, with what was being done.
void check(cudaError_t error, const std::string& what);

// Throws CudaFailure where an earlier fault has ended the process's use of CUDA. Any lesser error that somebody left
// behind is dropped, since the next launch would report it as its own.
void check_context(const std::string& what);

// Makes a device current, and gives the caller's back at the end.
class DeviceScope {
 public:
  explicit DeviceScope(int device);
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  ~DeviceScope() {
    if (before_ >= 0) cudaSetDevice(before_);
  }

 private:
  int before_ = -1;
};

// Throws DeviceError where there is no driver, one that is too old, or no device.
int device_count();

// Throws DeviceError where the device does not exist or is older than the kernels.
DeviceFacts facts_of(int device);

// Runs `work`; no exception leaves it.
template <typename Work>
int32_t at_boundary(FctCudaError* error, Work work) {
  const auto fail = [error](int32_t code, cudaError_t cuda, const char* what) {
    error->cuda_error = static_cast<int32_t>(cuda);
    std::snprintf(error->message, sizeof(error->message), "%s", what);
    return code;
  };
  try {
    *error = {};
    work();
    return FCT_CUDA_OK;
  } catch (const Interrupted&) {
    return fail(FCT_CUDA_STOPPED, cudaSuccess, "stopped by the caller");
  } catch (const CudaFailure& failure) {
    return fail(FCT_CUDA_DEVICE, failure.code, failure.what());
  } catch (const DeviceError& problem) {
    return fail(FCT_CUDA_DEVICE, cudaSuccess, problem.what());
  } catch (const ShapeError& problem) {
    return fail(FCT_CUDA_SHAPE, cudaSuccess, problem.what());
  } catch (const DtypeError& problem) {
    return fail(FCT_CUDA_DTYPE, cudaSuccess, problem.what());
  } catch (const std::bad_alloc&) {
    return fail(FCT_CUDA_DEVICE, cudaSuccess, "the host is out of memory");
  } catch (const std::exception& problem) {
    return fail(FCT_CUDA_INTERNAL, cudaSuccess, problem.what());
  }
}

}  // namespace fct::cuda
