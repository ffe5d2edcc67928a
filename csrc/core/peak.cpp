#include "core/peak.hpp"

#include <chrono>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/thread_pool.hpp"

namespace fct {
namespace {

using Loop = int64_t (*)(int64_t rounds, float* sink);

constexpr int64_t kRounds = 100'000;  // a fraction of a millisecond

Loop loop_of(CpuLevel level, Precision precision) {
  if (precision == Precision::fp32) return kernels_of(level).peak;
  if (precision == Precision::int8) return int8_kernels_of(level).peak;
  const Bf16Table* const kernels = bf16_kernels_of(level);
  if (kernels == nullptr) throw DeviceError("level '" + std::string(name_of(level)) + "' has no bf16 on this machine");
  return kernels->peak;
}

}  // namespace

double peak_rate(CpuLevel level, Precision precision, int threads, double seconds) {
  using Clock = std::chrono::steady_clock;
  const Loop loop = loop_of(level, precision);
  std::vector<double> rates(static_cast<std::size_t>(threads));
  parallel_for(threads, threads, [&](int64_t task, int) {
    float sink = 0.0f;
    int64_t done = 0;
    double spent = 0.0;
    for (const auto start = Clock::now(); spent < seconds;) {
      done += loop(kRounds, &sink);
      spent = std::chrono::duration<double>(Clock::now() - start).count();
    }
    rates[static_cast<std::size_t>(task)] = static_cast<double>(done) / spent;
  });
  double total = 0.0;
  for (double rate : rates) total += rate;
  return total;
}

}  // namespace fct
