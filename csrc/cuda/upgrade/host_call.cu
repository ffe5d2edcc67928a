// A call on host arrays: memory for it, then chunk by chunk through host_run.
#include "cuda/stream_memory.hpp"
#include "cuda/upgrade/host_pipeline.hpp"
#include "cuda/upgrade/host_run.hpp"
#include "cuda/upgrade/host_stream.hpp"
#include "cuda/upgrade/upgrade.hpp"

namespace fct::cuda {
namespace {

enum class Where { pageable, pinned };

Where place_of(const void* pointer, const char* name) {
  cudaPointerAttributes attributes;
  check(cudaPointerGetAttributes(&attributes, pointer), std::string("asking where ") + name + " lies");
  if (attributes.type == cudaMemoryTypeDevice) {
    throw DeviceError(std::string(name) + " is in the memory of CUDA device " + std::to_string(attributes.device) +
                      ", but this call is on host arrays; pass all on one side");
  }
  return attributes.type == cudaMemoryTypeHost ? Where::pinned : Where::pageable;
}

// Pinned from the first to the last byte.
bool is_pinned(const FctCudaRows& rows, int64_t count, int64_t columns, const char* name) {
  const int64_t element = size_of(static_cast<Dtype>(rows.dtype));
  const auto* const first = static_cast<const unsigned char*>(rows.data);
  const unsigned char* const last = first + ((count - 1) * rows.row_stride + columns) * element - 1;
  const Where start = place_of(first, name), end = place_of(last, name);
  return start == Where::pinned && end == Where::pinned;
}

// A workspace on loan. No copy may still be on its way to the caller's arrays when an exception leaves.
class Loan {
 public:
  Loan(HostWorkspaces& from, const std::string& what) : from_(from), workspace_(from.take(what)) {}
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;
  ~Loan() {
    workspace_->drain();
    from_.give_back(std::move(workspace_));
  }
  HostWorkspace& operator*() const { return *workspace_; }
  HostWorkspace* operator->() const { return workspace_.get(); }

 private:
  HostWorkspaces& from_;
  std::unique_ptr<HostWorkspace> workspace_;
};

HostCall host_call_of(const FctCudaUpgrade& upgrade, const FctCudaUpgradeCall& call) {
  const auto rows = [](const FctCudaRows& from) {
    return RowsOf<const unsigned char*>{static_cast<const unsigned char*>(from.data), static_cast<Dtype>(from.dtype),
                                        from.row_stride};
  };
  const TransformLayout& layout = upgrade.layout;
  HostCall host{
      .old = rows(call.old_rows),
      .side = rows(call.side),
      .out = {static_cast<unsigned char*>(call.out.data), static_cast<Dtype>(call.out.dtype), call.out.row_stride},
      .uncertainty = call.uncertainty,
      .status = call.status,
      .old_pinned = is_pinned(call.old_rows, call.rows, layout.old_dim, "old"),
      .side_pinned = layout.side_dim > 0 && is_pinned(call.side, call.rows, layout.side_dim, "side"),
      .out_pinned = is_pinned(call.out, call.rows, layout.new_dim, "out"),
      .threads = std::max(call.threads, 1),
      .stop = {}};
  if (call.stop != nullptr) host.stop = [&call] { return call.stop(call.stop_context) != 0; };
  return host;
}

}  // namespace

void run_on_host(FctCudaUpgrade& upgrade, FctCudaUpgradeCall& call) {
  const std::string what = shape_of(upgrade, call);
  const HostCall host = host_call_of(upgrade, call);
  const HostShape shape{call.rows, host.old.dtype, host.side.dtype, host.out.dtype, call.like_rows};
  const Loan workspace(upgrade.workspaces, what);
  const cudaStream_t stream = workspace->stream(Lane::compute);
  with_shrinking_memory(upgrade, call, [&](int64_t limit) {
    const HostPlan plan = plan_host(upgrade.layout, upgrade.facts, shape, limit);
    if (call.planned_chunk_rows == 0) call.planned_chunk_rows = plan.chunk_rows;
    const cudaError_t pinned = workspace->reserve(plan.pinned_bytes());
    if (pinned != cudaSuccess) return pinned;
    const StreamMemory memory(plan.slots * plan.slot_bytes, stream), scratch(plan.chunk.scratch_bytes, stream);
    if (memory.status() != cudaSuccess) return memory.status();
    if (scratch.status() != cudaSuccess) return scratch.status();
    check(cudaStreamSynchronize(stream), what);  // the memory is there for the other lanes, too
    struct Drain {                               // before the memory goes back
      const HostWorkspace& lanes;
      ~Drain() { lanes.drain(); }
    } const drain{*workspace};
    StreamQueue queue(*workspace, host.stop, what);
    HostRun run(plan, host, {workspace->pinned(), memory.data(), scratch.data(), upgrade.weights}, queue);
    run_pipeline(call.rows, plan.chunk_rows, plan.slots, run);
    call.chunk_rows = plan.chunk_rows;
    return cudaSuccess;
  });
}

}  // namespace fct::cuda
