// Tensor maps: what the copy engine of Hopper (TMA) is told of a matrix in global memory.
//
// A copy moves a box of it, box_rows rows of 128 bytes, between global and shared memory. In shared memory the box
// has a row each 128 bytes, swizzled by address: chunk c of 16 bytes in row r lies at place c ^ (r % 8), as wgmma reads
// it. What a box has outside of the matrix is zeros on the way in, and stays unwritten on the way out.
#pragma once

#include <cstdint>
#include <string>

#include "core/error.hpp"

namespace fct::cuda {

constexpr int kBoxRowBytes = 128;

struct TensorShape {
  const void* data;  // a multiple of 16, as is the stride in bytes
  int64_t rows;
  int64_t columns;
  int64_t stride;  // in elements
  int32_t element_bytes;
  int32_t box_rows;  // 8 to 256, whole groups of 8

  int32_t box_columns() const { return kBoxRowBytes / element_bytes; }
};

// Passed to kernels by value, as __grid_constant__. What the bytes mean is the driver's affair, or the shim's.
struct alignas(128) TensorMap {
  unsigned char bytes[128];
};

// In the CUDA library the driver encodes it; in tests the shim does. Throws ShapeError where no map can say it.
TensorMap tensor_map(const TensorShape& shape);

inline void check_tensor(const TensorShape& shape) {
  const auto refuse = [](const std::string& what) { throw ShapeError("a tensor map needs " + what); };
  if (reinterpret_cast<std::uintptr_t>(shape.data) % 16 != 0) refuse("an address that is a multiple of 16");
  if (shape.element_bytes != 1 && shape.element_bytes != 2 && shape.element_bytes != 4) refuse("1, 2 or 4 bytes each");
  if (shape.rows < 1 || shape.columns < 1 || shape.rows > INT32_MAX || shape.columns > INT32_MAX)
    refuse("1 to 2^31 - 1 rows and columns");
  if (shape.stride < shape.columns || shape.stride * shape.element_bytes % 16 != 0)
    refuse("rows a multiple of 16 bytes apart");
  if (shape.box_rows < 8 || shape.box_rows > 256 || shape.box_rows % 8 != 0) refuse("boxes of 8 to 256 rows");
}

}  // namespace fct::cuda
