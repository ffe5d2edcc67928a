// The last layer's float32 rows to what the caller gets: unit norm, cast, uncertainty, and what became of each row.
#pragma once

#include "core/matrix.hpp"
#include "cuda/simt/simt.hpp"
#include "cuda/upgrade/args.hpp"

namespace fct::cuda {

constexpr int kFinishThreads = 256;
constexpr int kFinishBlocks = 4;  // a multiprocessor: 64 registers a thread, without which ptxas spills for sm_90a
constexpr int kFinishRows = kFinishThreads / kWarpLanes;  // one warp a row

// A norm below the smallest normal float counts as zero, as on the CPU.
constexpr double kSmallestNorm = 0x1p-126;

// In float64, where the square of a float is exact and none overflows: a finite sum says that all of the row is finite.
FCT_DEVICE double square(float x) { return static_cast<double>(x) * static_cast<double>(x); }

// The order of int8, on the CPU too (fct_fast/kernels/int8.py): column c into sum c mod 4, the last columns one by one.
// All lanes of a warp; each sum is made eight times over, since its order leaves no more to share.
FCT_DEVICE double ordered_squares(const float* x, int columns) {
  const int whole = columns / 4 * 4;
  double squares = 0.0;
  for (int c = lane_index() % 4; c < whole; c += 4) squares += square(x[c]);
  squares += shuffle_xor(squares, 1);
  squares += shuffle_xor(squares, 2);
  for (int c = whole; c < columns; ++c) squares += square(x[c]);
  return squares;
}

struct RowSums {
  double squares;
  bool fits;  // every value, as it is, in Output
};

// By all lanes of a warp.
template <typename Output>
FCT_DEVICE RowSums sum_row(const float* x, int columns, bool ordered) {
  double squares = 0.0;
  bool fits = true;
  for (int c = lane_index(); c < columns; c += kWarpLanes) {
    squares += square(x[c]);
    fits &= is_finite(narrowed<Output>(x[c]));
  }
  squares = ordered ? ordered_squares(x, columns) : reduce_warp(squares, [](double a, double b) { return a + b; });
  return {squares, ballot(fits) == kAllLanes};
}

struct Verdict {
  unsigned char status;
  double scale;  // of a row that is ok
};

// What becomes of a row with the status `before`.
FCT_DEVICE Verdict judge(const FinishArgs& args, unsigned char before, double squares, bool fits, float uncertainty) {
  const double norm = square_root(squares);
  unsigned char status = before;
  if (status == kRowOk) {
    const bool overflow = !is_finite(squares) || (!args.normalize && !fits) || !is_finite(uncertainty);
    status = overflow ? kRowOverflow : args.normalize && norm < kSmallestNorm ? kRowZeroNorm : kRowOk;
  }
  return {status, args.normalize ? reciprocal(norm) : 1.0};
}

template <typename Output>
FCT_DEVICE void write_row(const FinishArgs& args, const float* x, bool ok, double scale, Output* out) {
  for (int c = lane_index(); c < args.columns; c += kWarpLanes) {
    narrow(ok ? static_cast<float>(static_cast<double>(x[c]) * scale) : 0.0f, out[c]);
  }
}

template <typename Output>
FCT_DEVICE void finish_row(const FinishArgs& args, int64_t row) {
  const float* const x = args.x + row * args.x_stride;
  const RowSums sums = sum_row<Output>(x, args.columns, args.ordered != 0);
  const float uncertainty = args.has_uncertainty ? x[args.columns] : 0.0f;
  const Verdict verdict = judge(args, args.status[row], sums.squares, sums.fits, uncertainty);
  const bool ok = verdict.status == kRowOk;
  write_row(args, x, ok, verdict.scale, static_cast<Output*>(args.out) + row * args.out_stride);
  sync_warp();  // every lane has read the status
  if (lane_index() == 0) {
    args.status[row] = verdict.status;
    if (args.uncertainty != nullptr) args.uncertainty[row] = ok ? uncertainty : 0.0f;
  }
}

FCT_DEVICE void finish_rows(const FinishArgs& args) {
  const int64_t row = block_index() * kFinishRows + warp_index();
  if (row >= args.rows) return;  // whole warps
  switch (static_cast<Dtype>(args.out_dtype)) {
    case Dtype::f32:
      return finish_row<float>(args, row);
    case Dtype::f16:
      return finish_row<Half>(args, row);
    case Dtype::bf16:
      return finish_row<Bfloat>(args, row);
  }
}

}  // namespace fct::cuda
