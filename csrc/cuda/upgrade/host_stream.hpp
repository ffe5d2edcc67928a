// The lanes of a call on host arrays as CUDA streams, with pinned memory; kept between calls, since both are slow to
// make.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/thread_pool.hpp"
#include "cuda/upgrade/host_run.hpp"

namespace fct::cuda {

// Streams, marks and pinned memory of one call at a time, on the device that was current when it was made.
class HostWorkspace {
 public:
  HostWorkspace() = default;
  HostWorkspace(const HostWorkspace&) = delete;
  HostWorkspace& operator=(const HostWorkspace&) = delete;
  ~HostWorkspace();

  // Makes streams and events. Throws CudaFailure.
  void open(const std::string& what);

  // At least so much pinned memory; grows, and never shrinks.
  cudaError_t reserve(int64_t bytes);

  unsigned char* pinned() const { return pinned_; }
  cudaStream_t stream(Lane lane) const { return streams_[static_cast<std::size_t>(lane)]; }
  cudaEvent_t event(Lane lane, int slot) const {
    return events_[static_cast<std::size_t>(slot)][static_cast<std::size_t>(lane)];
  }

  // Waits until nothing is on its way any more; an error of the device is not looked at.
  void drain() const;

 private:
  std::array<cudaStream_t, kLanes> streams_{};
  std::array<std::array<cudaEvent_t, kLanes>, kHostSlots> events_{};
  unsigned char* pinned_ = nullptr;
  int64_t pinned_bytes_ = 0;
};

// Workspaces that no call uses right now. Safe to call from several threads.
class HostWorkspaces {
 public:
  std::unique_ptr<HostWorkspace> take(const std::string& what);
  void give_back(std::unique_ptr<HostWorkspace> workspace);

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<HostWorkspace>> idle_;
};

class StreamQueue : public LaneQueue {
 public:
  StreamQueue(const HostWorkspace& workspace, const StopFn& stop, std::string what)
      : workspace_(workspace), stop_(stop), what_(std::move(what)) {}
  void copy(Lane lane, const RowCopy& copy) override;
  void upgrade(const UpgradePlan& plan, const UpgradeRun& run) override;
  void record(Lane lane, int slot) override;
  void wait(Lane waiter, Lane lane, int slot) override;
  void wait_on_host(Lane lane, int slot) override;

 private:
  const HostWorkspace& workspace_;
  const StopFn& stop_;
  const std::string what_;
};

}  // namespace fct::cuda
