// Which ISA level runs. Chosen once a process, outside every loop.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cpu/kernel_table.hpp"

namespace fct {

// amx is avx512 but for its bf16 and int8 products. It has not run on such a CPU yet: it is usable only with
// FCT_FAST_AMX_UNVERIFIED=1. A level of its own, since its bits in bf16 are not those of avx512.
enum class CpuLevel { scalar = 0, avx2 = 1, avx512 = 2, amx = 3 };

std::string_view name_of(CpuLevel level);

// Levels that this build holds and this CPU runs, lowest first.
std::vector<CpuLevel> usable_levels();

// An empty name means the default: FCT_FAST_CPU_LEVEL where it is set, else the best usable level.
// Throws DeviceError where the name is unknown or the level is not usable here.
CpuLevel level_from_name(std::string_view name);

const KernelTable& kernels_of(CpuLevel level);

// The bfloat16 kernels that go with a level on this machine, or null.
const Bf16Table* bf16_kernels_of(CpuLevel level);

// The int8 kernels that go with a level on this machine; all give the same bits. AVX-512 VNNI has not run on such a CPU
// yet, so level avx512 takes the AVX2 kernels unless FCT_FAST_VNNI_UNVERIFIED=1 and the CPU has it.
const Int8Table& int8_kernels_of(CpuLevel level);
bool has_vnni();

// The kernels that run at a level, by precision, for people; bf16 is empty where there are none.
struct KernelNames {
  std::string_view fp32, bf16, int8;
};
KernelNames kernel_names(CpuLevel level);

// Whether the CPU and its system have what level amx needs, turned on or not.
bool has_amx();

}  // namespace fct
