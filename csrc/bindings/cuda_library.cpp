#include "bindings/cuda_library.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include "core/error.hpp"

namespace fct::python {
namespace {

constexpr const char* kFile = "libfct_cuda.so";

std::string folder_of_this_module() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&check_cuda), &info) == 0 || info.dli_fname == nullptr) return ".";
  const std::string path = info.dli_fname;
  return path.substr(0, path.find_last_of('/'));
}

template <typename Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) {
    throw DeviceError(std::string("the CUDA library has no ") + name + "; reinstall fct-fast");
  }
}

}  // namespace

CudaLibrary::CudaLibrary() {
  const std::string path = folder_of_this_module() + "/" + kFile;
  if (access(path.c_str(), F_OK) != 0) {
    throw DeviceError("this build has no CUDA library, since nvcc was not found when it was built");
  }
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw DeviceError(std::string("the CUDA library does not load: ") + dlerror());
  decltype(&fct_cuda_abi_version) abi_version;
  find(library, "fct_cuda_abi_version", abi_version);
  if (abi_version() != FCT_CUDA_ABI_VERSION) {
    throw DeviceError("the CUDA library has ABI " + std::to_string(abi_version()) + ", expected " +
                      std::to_string(FCT_CUDA_ABI_VERSION) + "; reinstall fct-fast");
  }
  find(library, "fct_cuda_device_count", device_count);
  find(library, "fct_cuda_device", device);
  find(library, "fct_cuda_upgrade_create", upgrade_create);
  find(library, "fct_cuda_upgrade_destroy", upgrade_destroy);
  find(library, "fct_cuda_upgrade_run", upgrade_run);
  find(library, "fct_cuda_upgrade_run_host", upgrade_run_host);
  find(library, "fct_cuda_upgrade_plan", upgrade_plan);
  find(library, "fct_cuda_upgrade_family", upgrade_family);
  find(library, "fct_cuda_rank", rank);
  find(library, "fct_cuda_topk", topk);
  find(library, "fct_cuda_topk_plan", topk_plan);
}

const CudaLibrary& CudaLibrary::get() {
  static const CudaLibrary library;  // where it throws, the next call tries again
  return library;
}

void check_cuda(int32_t code, const FctCudaError& error) {
  switch (code) {
    case FCT_CUDA_OK:
      return;
    case FCT_CUDA_SHAPE:
      throw ShapeError(error.message);
    case FCT_CUDA_DTYPE:
      throw DtypeError(error.message);
    case FCT_CUDA_DEVICE:
      throw DeviceError(error.message);
    case FCT_CUDA_STOPPED:
      throw Interrupted();
    default:
      throw DeviceError(std::string("the CUDA library failed in a way that it should not: ") + error.message);
  }
}

}  // namespace fct::python
