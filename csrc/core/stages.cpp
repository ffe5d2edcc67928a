#include "core/stages.hpp"

#include <algorithm>
#include <atomic>
#include <limits>
#include <vector>

#include "core/spin.hpp"

namespace fct {
namespace {

// Lets the tasks of a stage through when those of the stages before are done. Tasks are numbered through all stages
// and taken lowest first, so whoever waits here waits for tasks that run already: no thread has to come for that.
class StageGate {
 public:
  explicit StageGate(std::span<const int64_t> counts) {
    int64_t end = 0;
    for (int64_t count : counts) ends_.push_back(end += count);
  }

  int64_t tasks() const { return ends_.empty() ? 0 : ends_.back(); }
  int32_t stage_of(int64_t task) const {
    return static_cast<int32_t>(std::upper_bound(ends_.begin(), ends_.end(), task) - ends_.begin());
  }
  int64_t first_task(int32_t stage) const { return stage == 0 ? 0 : ends_[static_cast<std::size_t>(stage - 1)]; }

  // False where a task has failed, and the rest is not to be run.
  bool enter(int32_t stage) {
    if (!spin_until([&] { return open_.load(std::memory_order_acquire) >= stage; })) {
      for (int32_t seen; (seen = open_.load(std::memory_order_acquire)) < stage;) open_.wait(seen);
    }
    return open_.load(std::memory_order_relaxed) != kFailed;
  }

  void leave(int32_t stage) {
    // Each task's writes are released here, and acquired by the last, which opens the next stage.
    const int64_t done = done_.fetch_add(1, std::memory_order_acq_rel) + 1;
    if (done != ends_[static_cast<std::size_t>(stage)]) return;
    open_.store(stage + 1, std::memory_order_release);
    open_.notify_all();
  }

  void fail() {
    open_.store(kFailed, std::memory_order_release);
    open_.notify_all();
  }

 private:
  static constexpr int32_t kFailed = std::numeric_limits<int32_t>::max();

  std::vector<int64_t> ends_;  // tasks up to the end of each stage
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int32_t> open_{0};  // the stage whose tasks may run
};

}  // namespace

void run_stages(std::span<const int64_t> counts, int threads, const std::function<void(int64_t, int64_t)>& task,
                const StopFn& stop) {
  StageGate gate(counts);
  parallel_for(
      gate.tasks(), threads,
      [&](int64_t number, int) {
        const int32_t stage = gate.stage_of(number);
        if (!gate.enter(stage)) return;
        try {
          task(stage, number - gate.first_task(stage));
        } catch (...) {
          gate.fail();
          throw;
        }
        gate.leave(stage);
      },
      stop);
}

}  // namespace fct
