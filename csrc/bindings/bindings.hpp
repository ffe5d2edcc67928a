// What every binding file uses.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>

#include "core/error.hpp"
#include "core/thread_pool.hpp"

namespace fct::python {

void bind_upgrade(pybind11::module_& module);
void bind_rank(pybind11::module_& module);
void bind_topk(pybind11::module_& module);
void bind_cuda(pybind11::module_& module);
void bind_cuda_rank(pybind11::module_& module);
void bind_cuda_topk(pybind11::module_& module);

// Runs work(stop) without the GIL. Signals (Ctrl-C) are looked at every 50 ms on the calling thread and leave as the
// exception that their handler raised.
template <typename Work>
void run_released(Work work) {
  namespace py = pybind11;
  using Clock = std::chrono::steady_clock;
  Clock::time_point last = Clock::now();
  const StopFn stop = [&last] {
    if (Clock::now() - last < std::chrono::milliseconds(50)) return false;
    last = Clock::now();
    py::gil_scoped_acquire hold;
    return PyErr_CheckSignals() != 0;
  };
  try {
    py::gil_scoped_release release;
    work(stop);
  } catch (const Interrupted&) {
    throw py::error_already_set();
  }
}

}  // namespace fct::python
