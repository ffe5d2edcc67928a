#include "cuda/upgrade/host_stream.hpp"

#include <chrono>
#include <thread>

#include "core/error.hpp"
#include "cuda/runtime.hpp"
#include "cuda/upgrade/launch.hpp"

namespace fct::cuda {
namespace {

// A host that waits spins first, since a small call is done in less than a sleep takes.
constexpr auto kSpin = std::chrono::microseconds(200);
constexpr auto kNap = std::chrono::microseconds(50);

}  // namespace

HostWorkspace::~HostWorkspace() {
  drain();
  for (const auto& slot : events_) {
    for (cudaEvent_t event : slot) {
      if (event != nullptr) cudaEventDestroy(event);
    }
  }
  for (cudaStream_t stream : streams_) {
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
  if (pinned_ != nullptr) cudaFreeHost(pinned_);
}

void HostWorkspace::open(const std::string& what) {
  for (cudaStream_t& stream : streams_) check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), what);
  for (auto& slot : events_) {
    for (cudaEvent_t& event : slot) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), what);
  }
}

cudaError_t HostWorkspace::reserve(int64_t bytes) {
  if (bytes <= pinned_bytes_) return cudaSuccess;
  if (pinned_ != nullptr) cudaFreeHost(pinned_);
  pinned_ = nullptr;
  pinned_bytes_ = 0;
  void* memory = nullptr;
  const cudaError_t error = cudaHostAlloc(&memory, static_cast<std::size_t>(bytes), cudaHostAllocDefault);
  if (error != cudaSuccess) return error;
  pinned_ = static_cast<unsigned char*>(memory);
  pinned_bytes_ = bytes;
  return cudaSuccess;
}

void HostWorkspace::drain() const {
  for (cudaStream_t stream : streams_) {
    if (stream != nullptr) cudaStreamSynchronize(stream);
  }
}

std::unique_ptr<HostWorkspace> HostWorkspaces::take(const std::string& what) {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<HostWorkspace> workspace = std::move(idle_.back());
      idle_.pop_back();
      return workspace;
    }
  }
  auto workspace = std::make_unique<HostWorkspace>();
  workspace->open(what);
  return workspace;
}

void HostWorkspaces::give_back(std::unique_ptr<HostWorkspace> workspace) {
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(workspace));
}

void StreamQueue::copy(Lane lane, const RowCopy& copy) {
  const cudaMemcpyKind kind = lane == Lane::in ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost;
  const auto bytes = static_cast<std::size_t>(copy.row_bytes), rows = static_cast<std::size_t>(copy.rows);
  if (copy.to_pitch == copy.row_bytes && copy.from_pitch == copy.row_bytes) {
    check(cudaMemcpyAsync(copy.to, copy.from, bytes * rows, kind, workspace_.stream(lane)), what_);
    return;
  }
  check(cudaMemcpy2DAsync(copy.to, static_cast<std::size_t>(copy.to_pitch), copy.from,
                          static_cast<std::size_t>(copy.from_pitch), bytes, rows, kind, workspace_.stream(lane)),
        what_);
}

void StreamQueue::upgrade(const UpgradePlan& plan, const UpgradeRun& run) {
  StreamLauncher launcher(workspace_.stream(Lane::compute));
  run_upgrade(plan, run, launcher);
}

void StreamQueue::record(Lane lane, int slot) {
  check(cudaEventRecord(workspace_.event(lane, slot), workspace_.stream(lane)), what_);
}

void StreamQueue::wait(Lane waiter, Lane lane, int slot) {
  check(cudaStreamWaitEvent(workspace_.stream(waiter), workspace_.event(lane, slot), 0), what_);
}

void StreamQueue::wait_on_host(Lane lane, int slot) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  for (;;) {
    const cudaError_t error = cudaEventQuery(workspace_.event(lane, slot));
    if (error == cudaSuccess) return;
    if (error != cudaErrorNotReady) check(error, what_);
    if (stop_ && stop_()) throw Interrupted();
    if (Clock::now() - start > kSpin) std::this_thread::sleep_for(kNap);
  }
}

}  // namespace fct::cuda
