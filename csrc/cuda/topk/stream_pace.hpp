// Ctrl-C in a long search: the host stays a few pieces ahead of the device and looks for the caller's wish to stop
// while it waits. What is queued by then still runs.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include "cuda/runtime.hpp"

namespace fct::cuda::topk {

class StreamPace {
 public:
  // Without `stop` it neither waits nor looks.
  StreamPace(cudaStream_t stream, std::function<bool()> stop, const std::string& what)
      : stream_(stream), stop_(std::move(stop)), what_(what) {}
  StreamPace(const StreamPace&) = delete;
  StreamPace& operator=(const StreamPace&) = delete;
  ~StreamPace() {
    for (cudaEvent_t event : events_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
  }

  // Marks this place of the stream, and waits for the mark of kAhead calls ago. Throws Interrupted.
  void step() {
    if (!stop_) return;
    cudaEvent_t& event = events_[steps_++ % kAhead];
    if (event == nullptr) {
      check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), what_);
    } else {
      wait(event);
    }
    check(cudaEventRecord(event, stream_), what_);
  }

  // Waits for all that is queued. Throws Interrupted.
  void drain() {
    if (!stop_) return;
    step();
    wait(events_[(steps_ - 1) % kAhead]);
  }

 private:
  static constexpr std::size_t kAhead = 4;
  // A host that waits spins first, since a small call is done in less than a sleep takes.
  static constexpr auto kSpin = std::chrono::microseconds(200);
  static constexpr auto kNap = std::chrono::microseconds(50);

  void wait(cudaEvent_t event) {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point start = Clock::now();
    for (;;) {
      if (stop_()) throw Interrupted();
      const cudaError_t error = cudaEventQuery(event);
      if (error == cudaSuccess) return;
      if (error != cudaErrorNotReady) check(error, what_);
      cudaGetLastError();  // else the next launch would report it as its own
      if (Clock::now() - start > kSpin) std::this_thread::sleep_for(kNap);
    }
  }

  cudaStream_t stream_;
  const std::function<bool()> stop_;
  const std::string& what_;
  std::array<cudaEvent_t, kAhead> events_{};
  std::size_t steps_ = 0;
};

}  // namespace fct::cuda::topk
