// A call on host arrays, chunk by chunk, in the order of host_pipeline: the caller's rows into pinned memory (cast
// before the link where they are wider than the compute type), over the link, through the kernels, and back. Knows
// pointers and lanes, no device: a LaneQueue is CUDA streams, or memory of the host in tests.
#pragma once

#include <vector>

#include "core/thread_pool.hpp"
#include "cuda/upgrade/host_pipeline.hpp"
#include "cuda/upgrade/host_plan.hpp"
#include "cuda/upgrade/run.hpp"

namespace fct::cuda {

struct RowCopy {
  unsigned char* to = nullptr;
  int64_t to_pitch = 0;  // bytes from row to row, at least row_bytes
  const unsigned char* from = nullptr;
  int64_t from_pitch = 0;
  int64_t row_bytes = 0;
  int64_t rows = 0;
};

// Three lanes, each of which does what it was given in order; marks as run_pipeline wants them.
class LaneQueue {
 public:
  virtual ~LaneQueue() = default;
  virtual void copy(Lane lane, const RowCopy& copy) = 0;
  virtual void upgrade(const UpgradePlan& plan, const UpgradeRun& run) = 0;  // on Lane::compute
  virtual void record(Lane lane, int slot) = 0;
  virtual void wait(Lane waiter, Lane lane, int slot) = 0;
  virtual void wait_on_host(Lane lane, int slot) = 0;  // throws Interrupted where the caller asked to stop
};

struct HostCall {
  RowsOf<const unsigned char*> old;
  RowsOf<const unsigned char*> side;  // data null where h has none
  RowsOf<unsigned char*> out;
  float* uncertainty = nullptr;     // [rows] or null
  unsigned char* status = nullptr;  // [rows]
  // Whether the rows are pinned: then the link reads and writes them in place where no cast is needed.
  bool old_pinned = false;
  bool side_pinned = false;
  bool out_pinned = false;
  int threads = 1;
  StopFn stop;
};

struct HostMemory {
  unsigned char* pinned = nullptr;         // plan.pinned_bytes()
  unsigned char* device = nullptr;         // plan.slots * plan.slot_bytes
  unsigned char* scratch = nullptr;        // plan.chunk.scratch_bytes
  const unsigned char* weights = nullptr;  // as pack_transform wrote them
};

// The Steps of run_pipeline.
class HostRun {
 public:
  HostRun(const HostPlan& plan, const HostCall& call, const HostMemory& memory, LaneQueue& queue);

  void stage(const HostChunk& chunk);
  void copy_in(const HostChunk& chunk);
  void compute(const HostChunk& chunk);
  void copy_out(const HostChunk& chunk);
  void unload(const HostChunk& chunk);
  void record(Lane lane, int slot) { queue_.record(lane, slot); }
  void wait(Lane waiter, Lane lane, int slot) { queue_.wait(waiter, lane, slot); }
  void wait_on_host(Lane lane, int slot) { queue_.wait_on_host(lane, slot); }

 private:
  // An input on its way: where it lies, and where in a slot it goes.
  struct Input {
    RowsOf<const unsigned char*> rows;
    int64_t columns = 0;
    Dtype link = Dtype::f32;
    int64_t at = 0;
    bool in_place = false;
    int64_t pitch() const { return rows.stride * size_of(rows.dtype); }
    int64_t link_bytes() const { return columns * size_of(link); }
    const unsigned char* row(int64_t r) const { return rows.data + r * pitch(); }
  };

  unsigned char* pinned(int slot, int64_t at) const { return memory_.pinned + slot * plan_.slot_bytes + at; }
  unsigned char* device(int slot, int64_t at) const { return memory_.device + slot * plan_.slot_bytes + at; }
  std::vector<unsigned char>& wide(const HostChunk& chunk) {
    return wide_[static_cast<std::size_t>(chunk.index) % wide_.size()];
  }
  bool stage_row(const Input& input, int64_t row, unsigned char* target) const;
  bool is_finite(int64_t row) const;
  template <typename Task>
  void each_block(int64_t rows, int64_t row_bytes, Task task) const;

  const HostPlan& plan_;
  const HostCall& call_;
  const HostMemory memory_;
  LaneQueue& queue_;
  std::vector<Input> inputs_;
  int64_t out_bytes_;  // of a row
  bool out_in_place_;
  // A chunk's rows in which the cast made an infinity of a finite value; from stage to unload, and a slot's next chunk
  // is staged before its last one is unloaded, so there is one more than slots.
  std::vector<std::vector<unsigned char>> wide_;
};

}  // namespace fct::cuda
