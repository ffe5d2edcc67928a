#include "core/upgrade.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <utility>

#include "bindings/bindings.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/source_reader.hpp"
#include "core/peak.hpp"

namespace fct::python {
namespace {

namespace py = pybind11;

Precision precision_from(const std::string& name) {
  if (name == "fp32") return Precision::fp32;
  if (name == "bf16") return Precision::bf16;
  if (name == "int8") return Precision::int8;
  throw DtypeError("there is no precision '" + name + "'");
}

// make_buffer(size) gives the writable uint8 array that receives the packed bytes, and is returned.
py::object pack(int64_t old_dim, int64_t side_dim, int64_t new_dim, bool normalize, bool uncertainty,
                const std::string& precision, const py::list& branches, const py::list& trunk,
                const py::function& make_buffer) {
  SourceReader reader;
  const Precision wanted = precision_from(precision);
  TransformSource source =
      reader.transform(old_dim, side_dim, new_dim, normalize, uncertainty, branches, trunk, wanted == Precision::int8);
  source.precision = wanted;
  const int64_t size = packed_size(source);
  py::object buffer = make_buffer(size);
  pack_transform(source, Array(buffer, "packed", true).vector<unsigned char>(size));
  return buffer;
}

// Rows are written while others are read: `out` must hold its rows apart, and may share memory with an input only in
// place, row by row.
void check_overlap(const MutableMatrixView& out, const MatrixView& in, const char* name) {
  const auto range = [](const auto& view) {
    const auto first = reinterpret_cast<std::intptr_t>(view.row(0));
    const auto last = reinterpret_cast<std::intptr_t>(view.row(view.rows - 1));
    const int64_t bytes = view.cols * size_of(view.dtype);
    return std::pair{std::min(first, last), std::max(first, last) + bytes};
  };
  if (out.rows == 0 || in.rows == 0) return;
  const auto [out_begin, out_end] = range(out);
  const auto [in_begin, in_end] = range(in);
  if (out_end <= in_begin || in_end <= out_begin) return;
  const bool interleaved = out.row_stride * size_of(out.dtype) == in.row_stride * size_of(in.dtype);
  const int64_t stride = std::abs(out.row_stride) * size_of(out.dtype);
  const int64_t offset = reinterpret_cast<std::intptr_t>(out.data) - reinterpret_cast<std::intptr_t>(in.data);
  // With one stride, row i of out meets row i of in alone when both start within one row's stride of each other.
  const bool in_place = interleaved && offset >= 0 ? offset + out.cols * size_of(out.dtype) <= stride
                                                   : interleaved && -offset + in.cols * size_of(in.dtype) <= stride;
  if (!in_place)
    throw ShapeError(std::string("out overlaps ") + name +
                     " in memory, so rows would be overwritten before they are read; pass another out");
}

void check_rows_apart(const MutableMatrixView& out) {
  if (out.rows > 1 && std::abs(out.row_stride) < out.cols) {
    throw ShapeError("the rows of out lie on each other in memory; pass an out with a row of its own for each item");
  }
}

void upgrade_arrays(const py::object& packed, const std::string& level, const py::object& old, const py::object& side,
                    const py::object& out, const py::object& uncertainty, const py::object& status, int threads) {
  const Array packed_array(packed, "packed", false);
  const int64_t packed_bytes = packed_array.size();
  const PackedTransform transform = view_packed(packed_array.vector<unsigned char>(packed_bytes), packed_bytes);
  const Array old_array(old, "old", false);
  const Array out_array(out, "out", true);
  const Array status_array(status, "status", true);
  std::optional<Array> side_array;
  std::optional<Array> uncertainty_array;
  UpgradeCall call{.old = old_array.matrix(), .side = {}, .out = out_array.mutable_matrix(), .threads = threads};
  if (!side.is_none()) call.side = side_array.emplace(side, "side", false).matrix();
  if (!uncertainty.is_none())
    call.uncertainty = uncertainty_array.emplace(uncertainty, "uncertainty", true).vector<float>(call.old.rows);
  check_rows_apart(call.out);
  check_overlap(call.out, call.old, "old");
  if (!side.is_none()) check_overlap(call.out, call.side, "side");
  call.status = status_array.vector<unsigned char>(call.old.rows);
  const CpuLevel cpu_level = level_from_name(level);
  run_released([&](const StopFn& stop) { upgrade(transform, cpu_level, call, stop); });
}

double peak_of(const std::string& level, const std::string& precision, int threads, double seconds) {
  const CpuLevel cpu_level = level_from_name(level);
  const Precision kind = precision_from(precision);
  const py::gil_scoped_release release;
  return peak_rate(cpu_level, kind, threads, seconds);
}

}  // namespace

void bind_upgrade(py::module_& module) {
  module.def("pack", pack);
  module.def("upgrade", upgrade_arrays);
  module.def("has_vnni", has_vnni);
  module.def("has_amx", has_amx);
  module.def("peak_rate", peak_of);
  module.def("has_bf16", [](const std::string& level) { return bf16_kernels_of(level_from_name(level)) != nullptr; });
}

}  // namespace fct::python
