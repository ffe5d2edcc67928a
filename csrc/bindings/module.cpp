// The module fct_fast.kernels._native: one file of bindings an area, plain calls, typed errors.
#include <pybind11/pybind11.h>

#include "bindings/bindings.hpp"
#include "core/dispatch.hpp"
#include "core/error.hpp"
#include "core/thread_pool.hpp"

namespace {

namespace py = pybind11;

template <typename CppError>
void map_error(const py::module_& errors, const char* name) {
  // The class lives as long as the interpreter: the translator below may run at any time.
  static PyObject* type = nullptr;
  type = py::object(errors.attr(name)).release().ptr();
  py::register_local_exception_translator([](std::exception_ptr pending) {
    try {
      if (pending) std::rethrow_exception(pending);
    } catch (const CppError& error) {
      PyErr_SetString(type, error.what());
    }
  });
}

py::list level_names() {
  py::list names;
  for (fct::CpuLevel level : fct::usable_levels()) names.append(py::str(std::string(fct::name_of(level))));
  return names;
}

// Precision -> the kernels that run it at a level, or None.
py::dict kernel_names(const std::string& level) {
  const fct::KernelNames names = fct::kernel_names(fct::level_from_name(level));
  const auto text = [](std::string_view name) {
    return name.empty() ? py::object(py::none()) : py::str(std::string(name));
  };
  return py::dict(py::arg("fp32") = text(names.fp32), py::arg("bf16") = text(names.bf16),
                  py::arg("int8") = text(names.int8));
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  const py::module_ errors = py::module_::import("fct_fast.errors");
  map_error<fct::ShapeError>(errors, "ShapeError");
  map_error<fct::DtypeError>(errors, "DtypeError");
  map_error<fct::DeviceError>(errors, "DeviceError");
  map_error<fct::NonFiniteError>(errors, "NonFiniteError");

  module.def("usable_levels", level_names);
  module.def("kernel_names", kernel_names);
  module.def("resolve_level",
             [](const std::string& name) { return std::string(fct::name_of(fct::level_from_name(name))); });
  module.def("available_threads", fct::available_threads);
  module.attr("compiler") = FCT_COMPILER;
  fct::python::bind_upgrade(module);
  fct::python::bind_rank(module);
  fct::python::bind_topk(module);
  fct::python::bind_cuda(module);
  fct::python::bind_cuda_rank(module);
  fct::python::bind_cuda_topk(module);
}
