// Arrays in and out by the DLPack protocol (https://dmlc.github.io/dlpack): the object says its device, dtype, shape,
// strides and owner, so that nothing is trusted but what the producer promised, and nothing is copied.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "core/matrix.hpp"

namespace fct::python {

namespace py = pybind11;

// The DLPack ABI, versions 0 and 1.
namespace abi {
struct Device {
  int32_t type;
  int32_t id;
};
struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};
struct Managed {
  Tensor tensor;
  void* manager;
  void (*deleter)(Managed*);
};
struct Version {
  uint32_t major;
  uint32_t minor;
};
struct ManagedVersioned {
  Version version;
  void* manager;
  void (*deleter)(ManagedVersioned*);
  uint64_t flags;
  Tensor tensor;
};
constexpr uint64_t kReadOnly = 1;
constexpr int32_t kCpu = 1;
constexpr int32_t kCuda = 2;
constexpr uint8_t kInt = 0, kUnsigned = 1, kFloat = 2, kBfloat = 4, kBool = 6;
}  // namespace abi

// Holds a producer's tensor for as long as it lives. `name` is the argument's name in error messages.
class Array {
 public:
  static constexpr int32_t kOnCpu = -1;

  // Throws DtypeError where the object has no DLPack protocol, is not on the CPU, or (with `writable`) is read-only.
  // With `cuda_device` >= 0 it must lie on that device instead; the caller orders its stream after the producer's.
  Array(const py::object& object, std::string name, bool writable, int32_t cuda_device = kOnCpu);
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  Array(Array&&) = default;

  // A two-dimensional view of floats. Throws ShapeError or DtypeError.
  MatrixView matrix() const;
  MutableMatrixView mutable_matrix() const;

  // A contiguous one-dimensional view of `size` elements of T. Throws ShapeError or DtypeError.
  template <typename T>
  T* vector(int64_t size) const {
    check_vector(size, sizeof(T) * 8,
                 std::is_floating_point_v<T> ? abi::kFloat
                 : std::is_signed_v<T>       ? abi::kInt
                                             : abi::kUnsigned);
    return reinterpret_cast<T*>(data());
  }

  int64_t size() const;  // of a one-dimensional array

 private:
  unsigned char* data() const { return static_cast<unsigned char*>(tensor_->data) + tensor_->byte_offset; }
  void check_vector(int64_t size, std::size_t bits, uint8_t code) const;
  void check_device(int32_t cuda_device) const;

  std::string name_;
  py::object capsule_;
  const abi::Tensor* tensor_ = nullptr;
};

}  // namespace fct::python
