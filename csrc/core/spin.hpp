// Waiting for a moment without sleeping: a sleep and its wake-up cost some ten microseconds, a short wait is less.
#pragma once

#include <chrono>

namespace fct {

// As long as a wake-up takes; whoever waits longer sleeps.
constexpr std::chrono::microseconds kSpinTime{20};

inline void pause_core() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether `done` came true before the time was up.
template <typename Done>
bool spin_until(Done done) {
  if (done()) return true;
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 8; ++i) {
      pause_core();
      if (done()) return true;
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace fct
