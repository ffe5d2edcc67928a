#include "core/dispatch.hpp"

#include <cstdlib>

#include "core/error.hpp"

namespace fct {
namespace {

bool cpu_runs(CpuLevel level) {
#if defined(FCT_X86_LEVELS)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  switch (level) {
    case CpuLevel::scalar:
      return true;
    case CpuLevel::avx2:
      return avx2;
    case CpuLevel::avx512:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  return false;
#else
  return level == CpuLevel::scalar;
#endif
}

constexpr CpuLevel kAllLevels[] = {CpuLevel::scalar, CpuLevel::avx2, CpuLevel::avx512};

std::string joined(const std::vector<CpuLevel>& levels) {
  std::string text;
  for (CpuLevel level : levels) text += (text.empty() ? "" : ", ") + std::string(name_of(level));
  return text;
}

}  // namespace

std::string_view name_of(CpuLevel level) {
  switch (level) {
    case CpuLevel::scalar:
      return "scalar";
    case CpuLevel::avx2:
      return "avx2";
    case CpuLevel::avx512:
      return "avx512";
  }
  return "unknown";
}

std::vector<CpuLevel> usable_levels() {
  std::vector<CpuLevel> levels;
  for (CpuLevel level : kAllLevels) {
    if (cpu_runs(level)) levels.push_back(level);
  }
  return levels;
}

CpuLevel level_from_name(std::string_view name) {
  const std::vector<CpuLevel> usable = usable_levels();
  std::string source = "level";
  if (name.empty()) {
    const char* forced = std::getenv("FCT_FAST_CPU_LEVEL");
    if (forced == nullptr || *forced == '\0') return usable.back();
    name = forced;
    source = "FCT_FAST_CPU_LEVEL";
  }
  for (CpuLevel level : usable) {
    if (name == name_of(level)) return level;
  }
  for (CpuLevel level : kAllLevels) {
    if (name == name_of(level)) {
      throw DeviceError(source + " asks for '" + std::string(name) + "', which this machine cannot run; it runs " +
                        joined(usable));
    }
  }
  throw DeviceError(source + " is '" + std::string(name) + "', which is no CPU level; use one of " + joined(usable));
}

const KernelTable& kernels_of(CpuLevel level) {
#if defined(FCT_X86_LEVELS)
  if (level == CpuLevel::avx512) return kAvx512Kernels;
  if (level == CpuLevel::avx2) return kAvx2Kernels;
#endif
  (void)level;
  return kScalarKernels;
}

const Bf16Table* bf16_kernels_of(CpuLevel level) {
#if defined(FCT_X86_LEVELS)
  if (level == CpuLevel::avx512 && cpu_runs(level) && __builtin_cpu_supports("avx512bf16")) return &kAvx512Bf16Kernels;
#endif
  (void)level;
  return nullptr;
}

bool has_vnni() {
#if defined(FCT_X86_LEVELS)
  return cpu_runs(CpuLevel::avx512) && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

const Int8Table& int8_kernels_of(CpuLevel level) {
#if defined(FCT_X86_LEVELS)
  const char* const on = std::getenv("FCT_FAST_VNNI_UNVERIFIED");
  if (level == CpuLevel::avx512 && on != nullptr && std::string_view(on) == "1" && has_vnni()) {
    return kAvx512VnniInt8Kernels;
  }
  if (level >= CpuLevel::avx2) return kAvx2Int8Kernels;
#endif
  (void)level;
  return kScalarInt8Kernels;
}

}  // namespace fct
