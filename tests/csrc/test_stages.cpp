// run_stages: every task once, none before its stage, on more threads than cores; exceptions and stops reach the caller
// and leave nobody waiting.
#include "core/stages.hpp"

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "check.hpp"
#include "core/error.hpp"

using namespace fct;

namespace {

// The cells are plain memory: that a stage sees what the one before wrote is what TSan looks at here.
void each_stage_sees_the_one_before(int threads, int rounds) {
  const std::vector<int64_t> counts{1, 7, 1, 1, 64, 3, 32, 1};
  for (int round = 0; round < rounds; ++round) {
    std::vector<std::vector<int64_t>> cells;
    for (int64_t count : counts) cells.emplace_back(static_cast<std::size_t>(count), -1);
    run_stages(counts, threads, [&](int64_t stage, int64_t index) {
      int64_t sum = 1;
      if (stage > 0) {
        for (int64_t cell : cells[static_cast<std::size_t>(stage - 1)]) {
          CHECK(cell >= 0);
          sum += cell % 1000;
        }
      }
      CHECK(cells[static_cast<std::size_t>(stage)][static_cast<std::size_t>(index)] == -1);
      cells[static_cast<std::size_t>(stage)][static_cast<std::size_t>(index)] = sum;
    });
    for (const auto& stage : cells) {
      for (int64_t cell : stage) CHECK(cell >= 1);
    }
  }
}

// A task that takes longer than anyone spins: the others sleep and are woken.
void slow_tasks_put_others_to_sleep() {
  const std::vector<int64_t> counts{2, 4, 2};
  std::atomic<int> done{0};
  run_stages(counts, 4, [&](int64_t stage, int64_t index) {
    if (index == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CHECK(done >= (stage == 0 ? 0 : stage == 1 ? 2 : 6));
    ++done;
  });
  CHECK(done == 8);
}

void exceptions_leave_nobody_waiting() {
  const std::vector<int64_t> counts{4, 4, 4};
  for (int round = 0; round < 100; ++round) {
    CHECK_THROWS(run_stages(counts, 4,
                            [&](int64_t stage, int64_t index) {
                              CHECK(stage < 2);
                              if (stage == 1 && index == round % 4) throw std::runtime_error("task");
                            }),
                 std::runtime_error);
  }
}

void stop_leaves_nobody_waiting() {
  const std::vector<int64_t> counts(1000, 3);
  std::atomic<int> runs{0};
  const auto task = [&](int64_t, int64_t) {
    ++runs;
    std::this_thread::sleep_for(std::chrono::microseconds(200));  // else others may end it before the caller comes
  };
  for (int threads : {1, 4}) {
    runs = 0;
    CHECK_THROWS(run_stages(counts, threads, task, [&] { return runs > 50; }), Interrupted);
    CHECK(runs < 3000);
  }
}

void callers_may_come_together() {
  std::vector<std::thread> callers;
  for (int c = 0; c < 6; ++c) callers.emplace_back([] { each_stage_sees_the_one_before(3, 30); });
  for (auto& caller : callers) caller.join();
}

}  // namespace

int main() {
  for (int threads : {1, 2, 3, 16}) each_stage_sees_the_one_before(threads, 100);
  slow_tasks_put_others_to_sleep();
  exceptions_leave_nobody_waiting();
  stop_leaves_nobody_waiting();
  callers_may_come_together();
  run_stages({}, 4, [](int64_t, int64_t) { CHECK(false); });
  return 0;
}
