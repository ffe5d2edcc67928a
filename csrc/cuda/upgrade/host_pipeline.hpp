// The order of a call on host arrays: which chunk uses which buffers when, and what waits for what. No device, no
// memory and no clock in here, so a test follows every order that streams may take (test_host_pipeline).
//
// Chunk i works in slot i % slots, which is pinned memory and device memory for one chunk's input and output. Three
// lanes (streams) run side by side: copies in, kernels, copies out. The host fills the pinned input and empties the
// pinned output; kernels share one scratch, since they follow each other on their lane.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fct::cuda {

enum class Lane : int32_t { in = 0, compute = 1, out = 2 };
constexpr int kLanes = 3;

struct HostChunk {
  int64_t index = 0;
  int64_t first = 0;  // row
  int64_t rows = 0;
  int slot = 0;
};

// Steps does the work: stage and unload on the host, at once; copy_in, compute and copy_out queue on their lanes.
// record(lane, slot) marks what the lane was given so far; wait(waiter, lane, slot) lets a lane go on, and
// wait_on_host(lane, slot) the host, only after what the slot's latest mark stands for.
template <typename Steps>
void run_pipeline(int64_t rows, int64_t chunk_rows, int slots, Steps& steps) {
  const auto chunk_of = [&](int64_t index) {
    const int64_t first = index * chunk_rows;
    return HostChunk{index, first, std::min(chunk_rows, rows - first), static_cast<int>(index % slots)};
  };
  const auto unload = [&](int64_t index) {
    const HostChunk chunk = chunk_of(index);
    steps.wait_on_host(Lane::out, chunk.slot);
    steps.unload(chunk);
  };
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  for (int64_t index = 0; index < chunks; ++index) {
    const HostChunk chunk = chunk_of(index);
    const int slot = chunk.slot;
    const bool reused = index >= slots;
    if (reused) steps.wait_on_host(Lane::in, slot);  // the pinned input was read
    steps.stage(chunk);

    if (reused) steps.wait(Lane::in, Lane::compute, slot);  // the device's input was read
    steps.copy_in(chunk);
    steps.record(Lane::in, slot);

    steps.wait(Lane::compute, Lane::in, slot);
    if (reused) steps.wait(Lane::compute, Lane::out, slot);  // the device's output was read
    steps.compute(chunk);
    steps.record(Lane::compute, slot);

    if (reused) unload(index - slots);  // frees the pinned output
    steps.wait(Lane::out, Lane::compute, slot);
    steps.copy_out(chunk);
    steps.record(Lane::out, slot);
  }
  for (int64_t index = std::max<int64_t>(chunks - slots, 0); index < chunks; ++index) unload(index);
}

}  // namespace fct::cuda
