#include "cuda/tensor_map.hpp"

#include <cudaTypedefs.h>

#include "cuda/runtime.hpp"

namespace fct::cuda {
namespace {

// Found at run time, so that the library links no driver.
PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
        "looking for cuTensorMapEncodeTiled");
  if (result != cudaDriverEntryPointSuccess) throw DeviceError("the NVIDIA driver is too old for tensor maps");
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
}

}  // namespace

TensorMap tensor_map(const TensorShape& shape) {
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = encoder();
  check_tensor(shape);
  const CUtensorMapDataType type = shape.element_bytes == 1   ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                   : shape.element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16
                                                              : CU_TENSOR_MAP_DATA_TYPE_UINT32;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(shape.columns), static_cast<cuuint64_t>(shape.rows)};
  const cuuint64_t pitch[1] = {static_cast<cuuint64_t>(shape.stride * shape.element_bytes)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(shape.box_columns()), static_cast<cuuint32_t>(shape.box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  static_assert(sizeof(CUtensorMap) == sizeof(TensorMap) && alignof(CUtensorMap) <= alignof(TensorMap));
  TensorMap map;
  const CUresult told = encode(reinterpret_cast<CUtensorMap*>(&map), type, 2, const_cast<void*>(shape.data), sizes,
                               pitch, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (told != CUDA_SUCCESS) {
    throw DeviceError("the NVIDIA driver refused the tensor map of " + std::to_string(shape.rows) + " x " +
                      std::to_string(shape.columns) + " (CUresult " + std::to_string(told) + ")");
  }
  return map;
}

}  // namespace fct::cuda
