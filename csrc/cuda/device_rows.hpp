// What the C ABI is given of arrays on a device, checked before a kernel sees it.
#pragma once

#include <string>

#include "core/matrix.hpp"
#include "cuda/runtime.hpp"

namespace fct::cuda {

// Throws DeviceError where kernels of the device may not read `pointer`.
inline void check_on_device(const void* pointer, const char* name, int device) {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, pointer), std::string("asking where ") + name + " lies");
  const bool here = attributes.type == cudaMemoryTypeDevice && attributes.device == device;
  if (here || attributes.type == cudaMemoryTypeManaged) return;
  throw DeviceError(std::string(name) + " is not in the memory of CUDA device " + std::to_string(device) +
                    (attributes.type == cudaMemoryTypeDevice ? " but of device " + std::to_string(attributes.device)
                                                             : std::string(" but of the host")));
}

// `name` is of several rows. Throws DtypeError.
inline MatrixView view_of(const FctCudaRows& rows, int64_t count, int64_t cols, const char* name) {
  if (rows.dtype < 0 || rows.dtype > 2) throw DtypeError(std::string(name) + " must be float32, float16 or bfloat16");
  if (count < 0 || (count > 1 && rows.row_stride < cols)) throw DtypeError(std::string(name) + " overlap each other");
  const MatrixView view{static_cast<const unsigned char*>(rows.data), static_cast<Dtype>(rows.dtype), count, cols,
                        rows.row_stride};
  if (reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(size_of(view.dtype)) != 0)
    throw DtypeError(std::string(name) + " are not aligned to their elements");
  return view;
}

}  // namespace fct::cuda
