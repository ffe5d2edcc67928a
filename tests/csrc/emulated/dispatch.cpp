// Stands in for core/dispatch.cpp: the emulated levels are there, and every kernel of theirs is on.
#include "core/dispatch.hpp"

namespace fct {

std::string_view name_of(CpuLevel level) {
  switch (level) {
    case CpuLevel::scalar:
      return "scalar";
    case CpuLevel::avx2:
      return "avx2";
    case CpuLevel::avx512:
      return "avx512, emulated";
    case CpuLevel::amx:
      return "amx, emulated";
  }
  return "unknown";
}

// The scalar level first: tests that compare levels have one that is not emulated.
std::vector<CpuLevel> usable_levels() { return {CpuLevel::scalar, CpuLevel::avx512, CpuLevel::amx}; }

const KernelTable& kernels_of(CpuLevel level) { return level == CpuLevel::scalar ? kScalarKernels : kAvx512Kernels; }

const Bf16Table* bf16_kernels_of(CpuLevel level) {
  if (level == CpuLevel::scalar) return nullptr;
  return level == CpuLevel::amx ? &kAmxBf16Kernels : &kAvx512Bf16Kernels;
}

bool has_vnni() { return true; }
bool has_amx() { return true; }

const Int8Table& int8_kernels_of(CpuLevel level) {
  if (level == CpuLevel::scalar) return kScalarInt8Kernels;
  return level == CpuLevel::amx ? kAmxInt8Kernels : kAvx512VnniInt8Kernels;
}

}  // namespace fct
