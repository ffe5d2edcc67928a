// parallel_for: every task once, slots never shared, exceptions and stops reach the caller, forked children work.
#include "core/thread_pool.hpp"

#include <sys/wait.h>

#include <atomic>
#include <stdexcept>
#include <thread>

#include "check.hpp"
#include "core/error.hpp"

using namespace fct;

namespace {

void every_task_once() {
  for (int threads : {1, 2, 3, 8}) {
    std::vector<std::atomic<int>> runs(1000);
    std::vector<std::atomic<int>> users(8);
    parallel_for(1000, threads, [&](int64_t i, int slot) {
      CHECK(slot >= 0 && slot < threads);
      CHECK(users[slot].fetch_add(1) == 0);
      ++runs[i];
      users[slot].fetch_sub(1);
    });
    for (auto& count : runs) CHECK(count == 1);
  }
  parallel_for(0, 4, [](int64_t, int) { CHECK(false); });
}

void exceptions_arrive() {
  for (int round = 0; round < 50; ++round) {
    CHECK_THROWS(parallel_for(100, 4,
                              [](int64_t i, int) {
                                if (i == 37) throw std::runtime_error("task");
                              }),
                 std::runtime_error);
  }
  every_task_once();
}

void stop_ends_the_run() {
  std::atomic<int> runs{0};
  CHECK_THROWS(parallel_for(1 << 20, 3, [&](int64_t, int) { ++runs; }, [] { return true; }), Interrupted);
  CHECK(runs < (1 << 20));
}

void callers_may_come_together() {
  std::vector<std::thread> callers;
  std::atomic<int64_t> sum{0};
  for (int c = 0; c < 8; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) parallel_for(100, 3, [&](int64_t i, int) { sum += i; });
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK(sum == 8 * 50 * 4950);
}

void forked_child_works() {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    std::atomic<int> runs{0};
    parallel_for(64, 4, [&](int64_t, int) { ++runs; });
    _exit(runs == 64 ? 0 : 1);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace

int main() {
  every_task_once();
  exceptions_arrive();
  stop_ends_the_run();
  callers_may_come_together();
#if !defined(__SANITIZE_THREAD__)  // TSan does not follow a fork of a threaded process
  forked_child_works();
#endif
  return 0;
}
