#include "bindings/dlpack.hpp"

#include <cstring>

#include "core/error.hpp"

namespace fct::python {
namespace {

// The capsule keeps its unused name, so that its own destructor releases the producer's tensor.
py::object capsule_of(const py::object& object, const std::string& name, bool on_cuda) {
  if (!py::hasattr(object, "__dlpack__")) {
    throw DtypeError(name + " is a " + std::string(py::str(py::type::of(object).attr("__name__"))) +
                     "; pass a numpy array, a torch tensor or another object with DLPack");
  }
  try {
    try {
      // Stream -1: the producer need not wait, since the caller passes the stream that it works on.
      if (on_cuda) return object.attr("__dlpack__")(py::arg("stream") = -1);
      return object.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0));
    } catch (py::error_already_set& error) {
      // Producers of before DLPack 1 do not know the argument.
      if (!error.matches(PyExc_TypeError)) throw;
      return object.attr("__dlpack__")();
    }
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;
    throw DtypeError(name + " cannot be read through DLPack: " + std::string(py::str(error.value())));
  }
}

std::string text(const abi::DataType& type) {
  const char* code = type.code == abi::kFloat      ? "float"
                     : type.code == abi::kBfloat   ? "bfloat"
                     : type.code == abi::kInt      ? "int"
                     : type.code == abi::kUnsigned ? "uint"
                     : type.code == abi::kBool     ? "bool"
                                                   : "dtype code ";
  return code + std::to_string(type.code <= abi::kFloat || type.code == abi::kBfloat || type.code == abi::kBool
                                   ? type.bits
                                   : type.code);
}

}  // namespace

Array::Array(const py::object& object, std::string name, bool writable, int32_t cuda_device)
    : name_(std::move(name)), capsule_(capsule_of(object, name_, cuda_device != kOnCpu)) {
  bool read_only = false;
  PyObject* const capsule = capsule_.ptr();
  if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
    const auto* managed = static_cast<abi::ManagedVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
    if (managed->version.major != 1)
      throw DtypeError(name_ + " uses DLPack version " + std::to_string(managed->version.major) + ", expected 1");
    tensor_ = &managed->tensor;
    read_only = (managed->flags & abi::kReadOnly) != 0;
  } else if (PyCapsule_IsValid(capsule, "dltensor")) {
    tensor_ = &static_cast<abi::Managed*>(PyCapsule_GetPointer(capsule, "dltensor"))->tensor;
  } else {
    throw DtypeError(name_ + " gave no DLPack tensor");
  }
  check_device(cuda_device);
  if (writable && read_only) throw DtypeError(name_ + " is read-only, so nothing can be written to it");
  if (tensor_->dtype.lanes != 1) throw DtypeError(name_ + " has vector elements; expected plain numbers");
}

void Array::check_device(int32_t cuda_device) const {
  const abi::Device& device = tensor_->device;
  if (cuda_device == kOnCpu) {
    if (device.type == abi::kCpu) return;
    throw DtypeError(name_ + " is not in CPU memory; move it there or use an Upgrader on its device");
  }
  if (device.type == abi::kCuda && device.id == cuda_device) return;
  const std::string place = device.type == abi::kCuda  ? "CUDA device " + std::to_string(device.id)
                            : device.type == abi::kCpu ? std::string("the CPU")
                                                       : "a device of DLPack type " + std::to_string(device.type);
  throw DeviceError(name_ + " is on " + place + ", but this computes on CUDA device " + std::to_string(cuda_device) +
                    "; move one of the two");
}

MutableMatrixView Array::mutable_matrix() const {
  const abi::DataType type = tensor_->dtype;
  MutableMatrixView view;
  if (type.code == abi::kFloat && type.bits == 32) {
    view.dtype = Dtype::f32;
  } else if (type.code == abi::kFloat && type.bits == 16) {
    view.dtype = Dtype::f16;
  } else if (type.code == abi::kBfloat && type.bits == 16) {
    view.dtype = Dtype::bf16;
  } else {
    throw DtypeError(name_ + " has dtype " + text(type) + "; use float32, float16 or bfloat16");
  }
  if (tensor_->ndim != 2)
    throw ShapeError(name_ + " has " + std::to_string(tensor_->ndim) + " dimensions; expected 2: [rows, dim]");
  view.rows = tensor_->shape[0];
  view.cols = tensor_->shape[1];
  view.row_stride = tensor_->strides ? tensor_->strides[0] : view.cols;
  const int64_t column_stride = tensor_->strides ? tensor_->strides[1] : 1;
  if (column_stride != 1 && view.cols > 1 && view.rows > 0)
    throw DtypeError(name_ + " has columns that are not contiguous; copy it first");
  view.data = data();
  return view;
}

MatrixView Array::matrix() const {
  const MutableMatrixView view = mutable_matrix();
  return {.data = view.data, .dtype = view.dtype, .rows = view.rows, .cols = view.cols, .row_stride = view.row_stride};
}

int64_t Array::size() const {
  if (tensor_->ndim != 1) throw ShapeError(name_ + " has " + std::to_string(tensor_->ndim) + " dimensions; expected 1");
  return tensor_->shape[0];
}

void Array::check_vector(int64_t size, std::size_t bits, uint8_t code) const {
  const abi::DataType type = tensor_->dtype;
  if (type.code != code || type.bits != bits)
    throw DtypeError(name_ + " has dtype " + text(type) + ", expected " + text({code, static_cast<uint8_t>(bits), 1}));
  if (this->size() != size)
    throw ShapeError(name_ + " has " + std::to_string(this->size()) + " elements, expected " + std::to_string(size));
  if (tensor_->strides && size > 1 && tensor_->strides[0] != 1)
    throw DtypeError(name_ + " is not contiguous; copy it first");
}

}  // namespace fct::python
