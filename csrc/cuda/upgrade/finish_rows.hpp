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

template <typename Output>
FCT_DEVICE void finish_row(const FinishArgs& args, int64_t row) {
  const float* const x = args.x + row * args.x_stride;
  // In float64, where the square of no float overflows: a finite sum says that all of the row is finite.
  double squares = 0.0;
  bool fits = true;
  for (int c = lane_index(); c < args.columns; c += kWarpLanes) {
    squares += static_cast<double>(x[c]) * static_cast<double>(x[c]);
    fits &= is_finite(narrowed<Output>(x[c]));
  }
  squares = reduce_warp(squares, [](double a, double b) { return a + b; });
  fits = ballot(fits) == kAllLanes;
  const bool finite = is_finite(squares);
  const double norm = square_root(squares);
  const float uncertainty = args.has_uncertainty ? x[args.columns] : 0.0f;

  unsigned char status = args.status[row];
  if (status == kRowOk) {
    const bool overflow = !finite || (!args.normalize && !fits) || !is_finite(uncertainty);
    status = overflow ? kRowOverflow : args.normalize && norm < kSmallestNorm ? kRowZeroNorm : kRowOk;
  }
  const bool ok = status == kRowOk;
  const double scale = args.normalize ? reciprocal(norm) : 1.0;
  Output* const out = static_cast<Output*>(args.out) + row * args.out_stride;
  for (int c = lane_index(); c < args.columns; c += kWarpLanes) {
    narrow(ok ? static_cast<float>(static_cast<double>(x[c]) * scale) : 0.0f, out[c]);
  }
  sync_warp();  // every lane has read the status
  if (lane_index() == 0) {
    args.status[row] = status;
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
