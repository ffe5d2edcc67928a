// The CUDA library, loaded on first use from beside this module. Everything that goes wrong is a DeviceError with what
// to do; a machine without a GPU never pays for it.
#pragma once

#include <string>

#include "cuda/abi.h"
#include "cuda/rank/abi.h"
#include "cuda/topk/abi.h"

namespace fct::python {

class CudaLibrary {
 public:
  // Throws DeviceError where the library is missing, does not load, or has another ABI.
  static const CudaLibrary& get();

  decltype(&fct_cuda_device_count) device_count;
  decltype(&fct_cuda_device) device;
  decltype(&fct_cuda_upgrade_create) upgrade_create;
  decltype(&fct_cuda_upgrade_destroy) upgrade_destroy;
  decltype(&fct_cuda_upgrade_run) upgrade_run;
  decltype(&fct_cuda_upgrade_run_host) upgrade_run_host;
  decltype(&fct_cuda_upgrade_plan) upgrade_plan;
  decltype(&fct_cuda_upgrade_family) upgrade_family;
  decltype(&fct_cuda_rank) rank;
  decltype(&fct_cuda_topk) topk;
  decltype(&fct_cuda_topk_plan) topk_plan;

 private:
  CudaLibrary();
};

// Throws the error of a call that did not return FCT_CUDA_OK; Interrupted where the call was stopped.
void check_cuda(int32_t code, const FctCudaError& error);

}  // namespace fct::python
