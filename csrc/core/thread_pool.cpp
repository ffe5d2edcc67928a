#include "core/thread_pool.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "core/error.hpp"
#include "core/float_state.hpp"
#include "core/spin.hpp"

namespace fct {
namespace {

struct Job {
  const std::function<void(int64_t, int)>* task;
  int64_t tasks;
  int max_slots;
  std::atomic<int64_t> next{0};
  std::atomic<bool> cancelled{false};
  int slots_taken = 0;          // guarded by the pool's mutex
  std::atomic<int> running{0};  // changed with the pool's mutex held
  std::exception_ptr error;     // guarded by the pool's mutex
};

class Pool {
 public:
  // The pool of this process; a forked child has none of the parent's threads and gets a new one. The old pools are
  // leaked on purpose: their threads may be inside a task when the process ends.
  static Pool& instance() {
    static std::mutex mutex;
    static Pool* pool = nullptr;
    static pid_t owner = 0;
    std::lock_guard lock(mutex);
    if (pool == nullptr || owner != getpid()) {
      pool = new Pool();
      owner = getpid();
    }
    return *pool;
  }

  void run(Job& job, const StopFn& stop) {
    {
      std::lock_guard lock(mutex_);
      const int wanted = job.max_slots - 1;
      grow(wanted);
      job.slots_taken = 1;
      job.running = 1;
      if (wanted > 0) jobs_.push_back(&job);
    }
    for (int worker = 1; worker < job.max_slots; ++worker) wake_.notify_one();
    bool interrupted = false;
    take_tasks(job, 0, [&] { return interrupted = stop && stop(); });
    std::unique_lock lock(mutex_);
    std::erase(jobs_, &job);
    if (--job.running > 0) {
      lock.unlock();
      spin_until([&] { return job.running.load(std::memory_order_relaxed) == 0; });
      lock.lock();
    }
    done_.wait(lock, [&] { return job.running == 0; });
    if (job.error) std::rethrow_exception(job.error);
    if (interrupted) throw Interrupted();
  }

 private:
  // Called with the mutex held. Fewer threads than wanted is no error: the caller's own always works.
  void grow(int wanted) {
    try {
      for (; workers_ < wanted; ++workers_) std::thread([this] { work(); }).detach();
    } catch (const std::system_error&) {
    }
  }

  template <typename Stop>
  void take_tasks(Job& job, int slot, Stop&& stop) {
    while (!job.cancelled.load(std::memory_order_relaxed)) {
      const int64_t index = job.next.fetch_add(1, std::memory_order_relaxed);
      if (index >= job.tasks) break;
      try {
        {
          const DefaultFloatState state;
          (*job.task)(index, slot);
        }
        if (stop()) job.cancelled = true;
      } catch (...) {
        std::lock_guard lock(mutex_);
        if (!job.error) job.error = std::current_exception();
        job.cancelled = true;
      }
    }
  }

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      Job* job = nullptr;
      wake_.wait(lock, [&] { return (job = open_job()) != nullptr; });
      const int slot = job->slots_taken++;
      ++job->running;
      lock.unlock();
      take_tasks(*job, slot, [] { return false; });
      lock.lock();
      if (--job->running == 0) done_.notify_all();
    }
  }

  Job* open_job() {
    for (Job* job : jobs_) {
      if (job->slots_taken < job->max_slots && job->next < job->tasks && !job->cancelled) return job;
    }
    return nullptr;
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::deque<Job*> jobs_;
  int workers_ = 0;
};

}  // namespace

void parallel_for(int64_t tasks, int threads, const std::function<void(int64_t, int)>& task, const StopFn& stop) {
  if (tasks <= 0) return;
  Job job{.task = &task,
          .tasks = tasks,
          .max_slots = static_cast<int>(std::clamp<int64_t>(threads, 1, tasks)),
          .error = {}};
  Pool::instance().run(job, stop);
}

int available_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace fct
