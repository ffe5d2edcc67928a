#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "bindings/cuda_call.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/source_reader.hpp"

namespace fct::python {
namespace {

namespace py = pybind11;

// What the CUDA library says of this machine: the devices that it can use, and the sentence of what stands in the way.
py::dict cuda_state() {
  py::list devices;
  std::string problem;
  try {
    const CudaLibrary& library = CudaLibrary::get();
    FctCudaError error;
    int32_t count = 0;
    check_cuda(library.device_count(&count, &error), error);
    for (int32_t device = 0; device < count; ++device) {
      FctCudaDevice facts;
      const int32_t code = library.device(device, &facts, &error);
      if (code != FCT_CUDA_OK) {
        problem = error.message;
        continue;
      }
      devices.append(py::dict(py::arg("device") = device, py::arg("name") = std::string(facts.name),
                              py::arg("compute") = facts.compute, py::arg("multiprocessors") = facts.multiprocessors,
                              py::arg("memory_bytes") = facts.memory_bytes));
    }
  } catch (const DeviceError& error) {
    problem = error.what();
  }
  return py::dict(py::arg("devices") = devices, py::arg("problem") = problem);
}

int32_t precision_code(const std::string& name) {
  if (name == "fp32") return static_cast<int32_t>(Dtype::f32);
  if (name == "fp16") return static_cast<int32_t>(Dtype::f16);
  if (name == "bf16") return static_cast<int32_t>(Dtype::bf16);
  if (name == "int8") return 3;
  throw DtypeError("the CUDA kernels have no precision '" + name + "'");
}

// Rows that an overflow makes the caller compute again must not be overwritten.
void check_apart(const MutableMatrixView& out, const MatrixView& in, const char* name) {
  const auto range = [](const auto& view) {
    const auto first = reinterpret_cast<std::intptr_t>(view.row(0));
    const auto last = reinterpret_cast<std::intptr_t>(view.row(view.rows - 1));
    return std::pair{std::min(first, last), std::max(first, last) + view.cols * size_of(view.dtype)};
  };
  if (out.rows == 0 || in.rows == 0) return;
  const auto [out_begin, out_end] = range(out);
  const auto [in_begin, in_end] = range(in);
  if (out_begin < in_end && in_begin < out_end)
    throw ShapeError(std::string("out shares memory with ") + name + "; on a GPU pass an out of its own");
}

// A transform on one device.
class CudaUpgrade {
 public:
  CudaUpgrade(int64_t old_dim, int64_t side_dim, int64_t new_dim, bool normalize, bool uncertainty,
              const std::string& precision, const py::list& branches, const py::list& trunk, int32_t device)
      : library_(CudaLibrary::get()), device_(device), old_dim_(old_dim), side_dim_(side_dim), new_dim_(new_dim) {
    SourceReader reader;
    const TransformSource source =
        reader.transform(old_dim, side_dim, new_dim, normalize, uncertainty, branches, trunk, precision == "int8");
    std::vector<FctCudaLayer> layers;
    std::vector<int32_t> reads_side, counts;
    const auto add = [&layers](const std::vector<LayerSource>& from) {
      for (const LayerSource& layer : from)
        layers.push_back({.weight = layer.weight,
                          .bias = layer.bias,
                          .in_dim = layer.in_dim,
                          .out_dim = layer.out_dim,
                          .relu = layer.relu,
                          .narrow = layer.narrow,
                          .quantized = layer.quantized,
                          .scale = layer.scale});
      return static_cast<int32_t>(from.size());
    };
    for (const BranchSource& branch : source.branches) {
      reads_side.push_back(branch.reads_side);
      counts.push_back(add(branch.layers));
    }
    add(source.trunk);
    const FctCudaTransform transform{.old_dim = old_dim,
                                     .side_dim = side_dim,
                                     .new_dim = new_dim,
                                     .normalize = normalize,
                                     .uncertainty = uncertainty,
                                     .precision = precision_code(precision),
                                     .branches = static_cast<int32_t>(counts.size()),
                                     .branch_reads_side = reads_side.data(),
                                     .branch_layers = counts.data(),
                                     .trunk_layers = static_cast<int64_t>(source.trunk.size()),
                                     .layers = layers.data()};
    FctCudaError error;
    check_cuda(library_.upgrade_create(&transform, device, &upgrade_, &error), error);
  }
  CudaUpgrade(const CudaUpgrade&) = delete;
  CudaUpgrade& operator=(const CudaUpgrade&) = delete;
  ~CudaUpgrade() { library_.upgrade_destroy(upgrade_); }

  // Arrays on the device with a stream's handle, or on the host with None. Returns the rows of a chunk, and how many
  // were planned before memory ran short.
  py::tuple run(const py::object& old, const py::object& side, const py::object& out, const py::object& uncertainty,
                const py::object& status, int64_t scratch_limit, std::optional<uintptr_t> stream, int threads,
                int64_t like_rows) const {
    const int32_t place = stream ? device_ : Array::kOnCpu;
    const Array old_array(old, "old", false, place), out_array(out, "out", true, place);
    const Array status_array(status, "status", true, place);
    std::optional<Array> side_array, uncertainty_array;
    const MatrixView old_rows = old_array.matrix();
    const MutableMatrixView out_rows = out_array.mutable_matrix();
    FctCudaUpgradeCall call{};
    call.rows = old_rows.rows;
    call.old_rows = cuda_rows(old_rows);
    call.out = cuda_rows(out_rows);
    if (out_rows.rows != call.rows) throw ShapeError("out has another number of rows than old");
    if (old_rows.cols != old_dim_ || out_rows.cols != new_dim_)
      throw ShapeError("old has rows of " + std::to_string(old_rows.cols) + " values and out of " +
                       std::to_string(out_rows.cols) + ", expected " + std::to_string(old_dim_) + " and " +
                       std::to_string(new_dim_));
    check_apart(out_rows, old_rows, "old");
    if (side_dim_ > 0) {
      const MatrixView rows = side_array.emplace(side, "side", false, place).matrix();
      if (rows.rows != call.rows) throw ShapeError("side has another number of rows than old");
      if (rows.cols != side_dim_)
        throw ShapeError("side has rows of " + std::to_string(rows.cols) + " values, expected " +
                         std::to_string(side_dim_));
      check_apart(out_rows, rows, "side");
      call.side = cuda_rows(rows);
    }
    if (!uncertainty.is_none())
      call.uncertainty = uncertainty_array.emplace(uncertainty, "uncertainty", true, place).vector<float>(call.rows);
    call.status = status_array.vector<unsigned char>(call.rows);
    call.scratch_limit = scratch_limit;
    call.stream = reinterpret_cast<void*>(stream.value_or(0));
    call.like_rows = like_rows;
    call.threads = threads;
    call_cuda(call, [&](FctCudaUpgradeCall* run, FctCudaError* error) {
      return stream ? library_.upgrade_run(upgrade_, run, error) : library_.upgrade_run_host(upgrade_, run, error);
    });
    return py::make_tuple(call.chunk_rows, call.planned_chunk_rows);
  }

  std::string family(int64_t rows) const {
    std::string text(256, '\0');
    FctCudaError error;
    check_cuda(library_.upgrade_family(upgrade_, rows, text.data(), static_cast<int64_t>(text.size()), &error), error);
    return text.c_str();
  }

  std::string plan(int64_t rows, int64_t scratch_limit) const {
    std::string text(16384, '\0');
    FctCudaError error;
    check_cuda(
        library_.upgrade_plan(upgrade_, rows, scratch_limit, text.data(), static_cast<int64_t>(text.size()), &error),
        error);
    return text.c_str();
  }

 private:
  const CudaLibrary& library_;
  const int32_t device_;
  const int64_t old_dim_, side_dim_, new_dim_;
  FctCudaUpgrade* upgrade_ = nullptr;
};

}  // namespace

void bind_cuda(py::module_& module) {
  module.def("cuda_state", cuda_state);
  py::class_<CudaUpgrade>(module, "CudaUpgrade")
      .def(py::init<int64_t, int64_t, int64_t, bool, bool, const std::string&, const py::list&, const py::list&,
                    int32_t>())
      .def("run", &CudaUpgrade::run)
      .def("plan", &CudaUpgrade::plan)
      .def("family", &CudaUpgrade::family);
}

}  // namespace fct::python
