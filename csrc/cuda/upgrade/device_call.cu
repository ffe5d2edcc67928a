// A call on pointers of the device: checked, then queued on the caller's stream.
#include "cuda/device_rows.hpp"
#include "cuda/stream_memory.hpp"
#include "cuda/upgrade/launch.hpp"
#include "cuda/upgrade/upgrade.hpp"

namespace fct::cuda {
namespace {

void check_memory(const FctCudaUpgrade& upgrade, const FctCudaUpgradeCall& call) {
  check_on_device(call.old_rows.data, "old", upgrade.device);
  check_on_device(call.out.data, "out", upgrade.device);
  check_on_device(call.status, "status", upgrade.device);
  if (upgrade.layout.side_dim > 0) check_on_device(call.side.data, "side", upgrade.device);
  if (call.uncertainty != nullptr) check_on_device(call.uncertainty, "uncertainty", upgrade.device);
  if (call.stream == nullptr) return;
  int device = upgrade.device;
#if CUDART_VERSION >= 12080
  check(cudaStreamGetDevice(static_cast<cudaStream_t>(call.stream), &device), "asking where the stream lies");
#endif
  if (device != upgrade.device) {
    throw DeviceError("the stream belongs to CUDA device " + std::to_string(device) + ", but the transform to device " +
                      std::to_string(upgrade.device));
  }
}

UpgradeRun run_of(const FctCudaUpgrade& upgrade, const FctCudaUpgradeCall& call, unsigned char* scratch) {
  const auto rows = [](const FctCudaRows& from) {
    return RowsOf<const unsigned char*>{static_cast<const unsigned char*>(from.data), static_cast<Dtype>(from.dtype),
                                        from.row_stride};
  };
  return {.old = rows(call.old_rows),
          .side = rows(call.side),
          .out = {static_cast<unsigned char*>(call.out.data), static_cast<Dtype>(call.out.dtype), call.out.row_stride},
          .uncertainty = call.uncertainty,
          .status = call.status,
          .weights = upgrade.weights,
          .scratch = scratch};
}

}  // namespace

void run_on_device(const FctCudaUpgrade& upgrade, FctCudaUpgradeCall& call) {
  check_memory(upgrade, call);
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  const int64_t like_rows = call.like_rows > 0 ? call.like_rows : call.rows;  // however small chunks become
  with_shrinking_memory(upgrade, call, [&](int64_t limit) {
    const UpgradePlan plan = plan_upgrade(upgrade.layout, upgrade.facts, call.rows, limit, like_rows);
    if (call.planned_chunk_rows == 0) call.planned_chunk_rows = plan.chunk_rows;
    const StreamMemory scratch(plan.scratch_bytes, stream);
    if (scratch.status() != cudaSuccess) return scratch.status();
    StreamLauncher launcher(stream);
    run_upgrade(plan, run_of(upgrade, call, scratch.data()), launcher);
    call.chunk_rows = plan.chunk_rows;
    return cudaSuccess;
  });
}

}  // namespace fct::cuda
