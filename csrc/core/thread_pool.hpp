// A small pool of std::thread workers. No OpenMP: torch brings its own, and forked children of one may hang.
#pragma once

#include <cstdint>
#include <functional>

namespace fct {

// Polled on the calling thread between tasks; true ends the run early.
using StopFn = std::function<bool()>;

// Runs task(index, slot) for every index in [0, tasks), on at most `threads` threads including the caller's, lowest
// index first. `slot` is in [0, threads) and no two tasks run at once with the same slot. Rethrows the first exception
// of a task. Throws Interrupted when `stop` returned true. Safe to call from several threads and in a forked child.
void parallel_for(int64_t tasks, int threads, const std::function<void(int64_t, int)>& task, const StopFn& stop = {});

// Cores that this process may use.
int available_threads();

}  // namespace fct
