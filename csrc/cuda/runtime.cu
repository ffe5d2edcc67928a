#include "cuda/runtime.hpp"

#include <algorithm>
#include <cstring>

namespace fct::cuda {
namespace {

// After these the process's CUDA context is lost for good: each later call reports them again.
bool is_sticky(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
      return true;
    default:
      return false;
  }
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "asking CUDA device " + std::to_string(device));
  return value;
}

}  // namespace

void check(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that it is not reported once more by somebody else's call
  std::string sentence = what + ": " + cudaGetErrorString(error);
  if (is_sticky(error))
    sentence += "; this process can no longer use CUDA, so restart it (the CPU kernels still work: device='cpu')";
  throw CudaFailure(error, sentence);
}

void check_context(const std::string& what) {
  const cudaError_t error = cudaGetLastError();
  if (is_sticky(error)) check(error, "an earlier fault came before the " + what);
}

DeviceScope::DeviceScope(int device) {
  check(cudaGetDevice(&before_), "asking for the current CUDA device");
  check(cudaSetDevice(device), "using CUDA device " + std::to_string(device));
}

int device_count() {
  int driver = 0;
  cudaDriverGetVersion(&driver);  // 0 where there is none
  if (driver == 0) throw CudaFailure(cudaErrorInsufficientDriver, "no NVIDIA driver is installed on this machine");
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    throw CudaFailure(error, "the NVIDIA driver serves CUDA up to " + version_text(driver) + ", but the kernels need " +
                                 version_text(CUDART_VERSION) + "; update the driver");
  }
  check(error, "looking for CUDA devices");
  if (count == 0) throw CudaFailure(cudaErrorNoDevice, "the NVIDIA driver shows no GPU to this process");
  return count;
}

DeviceFacts facts_of(int device) {
  const int count = device_count();
  if (device < 0 || device >= count) {
    throw DeviceError("there is no CUDA device " + std::to_string(device) + "; this process sees " +
                      std::to_string(count));
  }
  DeviceFacts facts;
  facts.compute =
      10 * attribute(cudaDevAttrComputeCapabilityMajor, device) + attribute(cudaDevAttrComputeCapabilityMinor, device);
  facts.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  facts.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (facts.compute < kMinCompute) {
    throw DeviceError("CUDA device " + std::to_string(device) + " has compute capability " +
                      std::to_string(facts.compute / 10) + "." + std::to_string(facts.compute % 10) +
                      "; the kernels need 8.0 or later");
  }
  return facts;
}

}  // namespace fct::cuda

int32_t fct_cuda_abi_version(void) { return FCT_CUDA_ABI_VERSION; }

int32_t fct_cuda_device_count(int32_t* count, FctCudaError* error) {
  return fct::cuda::at_boundary(error, [count] { *count = fct::cuda::device_count(); });
}

int32_t fct_cuda_device(int32_t device, FctCudaDevice* facts, FctCudaError* error) {
  return fct::cuda::at_boundary(error, [=] {
    const fct::cuda::DeviceFacts found = fct::cuda::facts_of(device);
    cudaDeviceProp properties;
    fct::cuda::check(cudaGetDeviceProperties(&properties, device), "asking CUDA device " + std::to_string(device));
    *facts = {};
    facts->device = device;
    facts->compute = found.compute;
    facts->multiprocessors = found.multiprocessors;
    facts->shared_bytes = found.shared_bytes;
    facts->memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
    const std::size_t length = std::min(std::strlen(properties.name), sizeof(facts->name) - 1);
    std::memcpy(facts->name, properties.name, length);  // the rest was cleared
  });
}
