// The plan of a call on host arrays: chunk, what crosses the link, and one slot's memory. Host only, a pure function.
#pragma once

#include <cstdint>

#include "cuda/upgrade/plan.hpp"

namespace fct::cuda {

// The fewest with which the host fills a slot while copies in, kernels and copies out are all busy
// (test_host_pipeline).
constexpr int kHostSlots = 3;

// What the caller's rows are.
struct HostShape {
  int64_t rows = 0;
  Dtype old_dtype = Dtype::f32;
  Dtype side_dtype = Dtype::f32;
  Dtype out_dtype = Dtype::f32;
  int64_t like_rows = 0;  // kernels are chosen as for so many rows; 0: as for `rows`
};

struct HostPlan {
  UpgradePlan chunk;  // of one chunk; its scratch serves all
  int64_t rows = 0;
  int64_t chunk_rows = 0;
  int slots = 0;
  // As the rows cross the link: rows wider than the compute type are cast before.
  Dtype old_link = Dtype::f16;
  Dtype side_link = Dtype::f16;
  // Bytes from a slot's start, alike in pinned memory and on the device.
  int64_t old_at = 0;
  int64_t side_at = 0;
  int64_t out_at = 0;
  int64_t uncertainty_at = 0;
  int64_t status_at = 0;
  int64_t slot_bytes = 0;

  int64_t pinned_bytes() const { return slots * slot_bytes; }
  int64_t device_bytes() const { return chunk.scratch_bytes + slots * slot_bytes; }
};

// `limit`: bytes of device memory. Throws DeviceError where not even a chunk of one row fits.
HostPlan plan_host(const TransformLayout& layout, const DeviceFacts& device, const HostShape& shape, int64_t limit);

// The dtype in which rows cross the link.
Dtype link_dtype(Dtype rows, Dtype compute);

}  // namespace fct::cuda
