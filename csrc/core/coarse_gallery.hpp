// A gallery in int8: scores near enough to say which rows an exact search has to look at, and how near they are.
//
// Row g becomes scale * q, q whole numbers within -127 .. 127. What that loses is measured, not estimated: the norm of
// g - scale * q is kept, and Cauchy's inequality turns it into a bound on the error of any score. Laid out as panels
// for the int8 tile (cpu/kernel_table.hpp), whose unsigned side the queries take.
#pragma once

#include <cstdint>

#include "core/rows.hpp"
#include "core/thread_pool.hpp"

namespace fct {

constexpr int64_t kCoarseBlockRows = 256;
constexpr float kLongestRow = 1e15f;  // scores of shorter rows cannot overflow

// Of a block of rows: no row has a larger norm, and none lost more. `norm` is infinite where a row holds NaN or Inf.
struct CoarseBlock {
  float norm;
  float residual;
};

// A view on the bytes that pack_coarse wrote.
struct CoarseGallery {
  int64_t rows;
  int64_t dim;
  int64_t quads;              // of depth steps
  const CoarseBlock* blocks;  // [blocks of 256 rows]
  const float* scale;         // [rows, up to whole panels]
  const float* bias;          // the same: -128 * scale * sum of q, since queries are stored with 128 added
  const int8_t* panels;
  bool sound;  // no row is so long that a score could overflow, and none holds NaN or Inf
};

// Bytes that a gallery takes: about dim + 8 a row.
int64_t coarse_size(int64_t rows, int64_t dim);

// Metric::cosine packs unit rows. Throws ShapeError for Metric::l2 and for rows that int32 sums could not hold.
void pack_coarse(CpuLevel level, const MatrixView& gallery, Metric metric, unsigned char* target, int threads,
                 const StopFn& stop = {});

CoarseGallery view_coarse(const unsigned char* bytes, int64_t rows, int64_t dim);

// x [dim] -> q [4 * quads], with `offset` added and zeros of that kind behind; returns the scale. A row of zeros, or
// one whose scale is below the smallest float, becomes zeros.
float quantize_row(const float* x, int64_t dim, int64_t quads, int offset, unsigned char* q);

// Norms of x and of x - scale * (q - offset), each rounded up to be a bound.
struct RowLoss {
  double norm;
  double residual;
};
RowLoss loss_of(const float* x, int64_t dim, float scale, int offset, const unsigned char* q);

}  // namespace fct
