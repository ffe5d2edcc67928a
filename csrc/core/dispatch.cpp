#include "core/dispatch.hpp"

#include <cstdlib>

#if defined(FCT_X86_LEVELS) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/error.hpp"

namespace fct {
namespace {

#if defined(FCT_X86_LEVELS)
bool is_on(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr && std::string_view(value) == "1";
}

// Linux gives a process the tile registers on demand, and then all its threads have them.
bool amx_permitted() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // the XSAVE component
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// Asked once a process.
bool amx_on() {
  static const bool on = is_on("FCT_FAST_AMX_UNVERIFIED") && has_amx() && amx_permitted();
  return on;
}
#endif

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
    case CpuLevel::amx:
      return amx_on();
  }
  return false;
#else
  return level == CpuLevel::scalar;
#endif
}

constexpr CpuLevel kAllLevels[] = {CpuLevel::scalar, CpuLevel::avx2, CpuLevel::avx512, CpuLevel::amx};

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
    case CpuLevel::amx:
      return "amx";
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
  if (name == name_of(CpuLevel::amx) && has_amx()) {
    throw DeviceError(source +
                      " asks for 'amx', which is off, since it has not been verified on such a processor yet; "
                      "FCT_FAST_AMX_UNVERIFIED=1 turns it on where the system permits it");
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
  if (level >= CpuLevel::avx512) return kAvx512Kernels;
  if (level == CpuLevel::avx2) return kAvx2Kernels;
#endif
  (void)level;
  return kScalarKernels;
}

const Bf16Table* bf16_kernels_of(CpuLevel level) {
#if defined(FCT_X86_LEVELS)
  if (level == CpuLevel::amx && cpu_runs(level)) return &kAmxBf16Kernels;
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

bool has_amx() {
#if defined(FCT_X86_LEVELS)
  return cpu_runs(CpuLevel::avx512) && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("amx-tile") &&
         __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("amx-int8");
#else
  return false;
#endif
}

const Int8Table& int8_kernels_of(CpuLevel level) {
#if defined(FCT_X86_LEVELS)
  if (level == CpuLevel::amx && cpu_runs(level)) return kAmxInt8Kernels;
  if (level == CpuLevel::avx512 && is_on("FCT_FAST_VNNI_UNVERIFIED") && has_vnni()) return kAvx512VnniInt8Kernels;
  if (level >= CpuLevel::avx2) return kAvx2Int8Kernels;
#endif
  (void)level;
  return kScalarInt8Kernels;
}

KernelNames kernel_names(CpuLevel level) {
  KernelNames names{"scalar", "", "scalar"};
#if defined(FCT_X86_LEVELS)
  if (&kernels_of(level) == &kAvx512Kernels) names.fp32 = "avx512";
  if (&kernels_of(level) == &kAvx2Kernels) names.fp32 = "avx2";
  const Bf16Table* const bf16 = bf16_kernels_of(level);
  if (bf16 != nullptr) names.bf16 = bf16 == &kAmxBf16Kernels ? "amx" : "avx512 bf16";
  const Int8Table* const int8 = &int8_kernels_of(level);
  if (int8 == &kAmxInt8Kernels) names.int8 = "amx";
  if (int8 == &kAvx512VnniInt8Kernels) names.int8 = "avx512 vnni";
  if (int8 == &kAvx2Int8Kernels) names.int8 = "avx2";
#else
  (void)level;
#endif
  return names;
}

}  // namespace fct
