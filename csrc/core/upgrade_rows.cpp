#include "core/upgrade_rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.hpp"
#include "core/rows.hpp"

namespace fct {

BlockRows::BlockRows(const PackedTransform& packed, const UpgradeCall& call, int64_t first, int64_t rows)
    : packed_(packed), call_(call), first_(first), rows_(rows) {
  std::memset(call.status + first, 0, static_cast<std::size_t>(rows));
}

void BlockRows::note_finite(const unsigned char* finite) {
  for (int64_t r = 0; r < rows_; ++r) {
    if (!finite[r]) set_status(r, RowStatus::nonfinite_input);
  }
}

void BlockRows::write_out(const KernelTable& kernels, const float* y, int64_t y_stride) {
  double squares[kMaxBlockRows];
  const SquaresArgs args{.x = y, .x_stride = y_stride, .rows = rows_, .cols = packed_.new_dim, .squares = squares};
  kernels.squares(&args);
  for (int64_t r = 0; r < rows_; ++r) {
    const float* const row = y + r * y_stride;
    // Squares of finite floats cannot overflow a double, so this is the test for NaN and Inf in the row, too.
    const double norm = std::sqrt(squares[r]);
    if (!std::isfinite(norm) || !fits_output(row)) set_status(r, RowStatus::overflow);
    if (packed_.uncertainty && !std::isfinite(row[packed_.new_dim])) set_status(r, RowStatus::overflow);
    if (packed_.normalize && is_zero_norm(norm)) set_status(r, RowStatus::zero_norm);
    const bool ok = status(r) == RowStatus::ok;
    write_row(row, r, !ok ? 0.0 : packed_.normalize ? 1.0 / norm : 1.0);
    if (call_.uncertainty) call_.uncertainty[first_ + r] = ok ? row[packed_.new_dim] : 0.0f;
  }
}

// Only rows that keep their scale can pass the largest float16 or bfloat16.
bool BlockRows::fits_output(const float* row) const {
  if (packed_.normalize || call_.out.dtype == Dtype::f32) return true;
  const bool half = call_.out.dtype == Dtype::f16;
  return std::all_of(row, row + packed_.new_dim, [half](float x) {
    return std::isfinite(half ? float_from_half(half_from_float(x)) : float_from_bfloat(bfloat_from_float(x)));
  });
}

void BlockRows::write_row(const float* row, int64_t r, double scale) {
  unsigned char* const target = call_.out.row(first_ + r);
  const auto value = [&](int64_t c) { return scale == 0.0 ? 0.0f : static_cast<float>(row[c] * scale); };
  if (call_.out.dtype == Dtype::f32) {
    float* const out = reinterpret_cast<float*>(target);
    for (int64_t c = 0; c < packed_.new_dim; ++c) out[c] = value(c);
  } else {
    uint16_t* const out = reinterpret_cast<uint16_t*>(target);
    const auto narrow = call_.out.dtype == Dtype::f16 ? half_from_float : bfloat_from_float;
    for (int64_t c = 0; c < packed_.new_dim; ++c) out[c] = narrow(value(c));
  }
}

void BlockRows::set_status(int64_t r, RowStatus value) {
  if (status(r) == RowStatus::ok) call_.status[first_ + r] = static_cast<unsigned char>(value);
}

}  // namespace fct
