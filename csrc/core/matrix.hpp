// Views on caller-owned rows. No ownership, no strides but the row stride: columns are contiguous.
#pragma once

#include <cstdint>

namespace fct {

enum class Dtype : int32_t { f32 = 0, f16 = 1, bf16 = 2 };

constexpr int64_t size_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

template <typename Byte>
struct BasicMatrixView {
  Byte* data = nullptr;
  Dtype dtype = Dtype::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  // in elements

  Byte* row(int64_t r) const { return data + r * row_stride * size_of(dtype); }
};

using MatrixView = BasicMatrixView<const unsigned char>;
using MutableMatrixView = BasicMatrixView<unsigned char>;

}  // namespace fct
