// Work in stages on the pool: a stage begins when all tasks of the one before it are done.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "core/thread_pool.hpp"

namespace fct {

// Runs task(stage, index) for every stage and every index in [0, counts[stage]), counts >= 1, on at most `threads`
// threads including the caller's. What a stage writes is seen by the stages after it. Tasks are taken as threads come
// free, so a thread of the pool that is late or missing delays nobody. Rethrows the first exception of a task, throws
// Interrupted where `stop`, polled between tasks, returned true.
void run_stages(std::span<const int64_t> counts, int threads, const std::function<void(int64_t, int64_t)>& task,
                const StopFn& stop = {});

}  // namespace fct
