// What every precision does alike to a block of rows: their status, and from the last layer's output to finished rows.
#pragma once

#include "core/upgrade.hpp"

namespace fct {

constexpr int64_t kMaxBlockRows = 192;

// Rows [first, first + rows) of a call, on one thread.
class BlockRows {
 public:
  // All rows are well at first.
  BlockRows(const PackedTransform& packed, const UpgradeCall& call, int64_t first, int64_t rows);

  int64_t first() const { return first_; }
  int64_t count() const { return rows_; }
  const MatrixView& source(const PackedBranch& branch) const { return branch.reads_side ? call_.side : call_.old; }

  // finite[r] as a load kernel wrote it.
  void note_finite(const unsigned char* finite);

  // y: the last layer's float32 output. `kernels` sums the squares of the rows.
  void write_out(const KernelTable& kernels, const float* y, int64_t y_stride);

 private:
  bool fits_output(const float* row) const;
  void write_row(const float* row, int64_t r, double scale);
  RowStatus status(int64_t r) const { return static_cast<RowStatus>(call_.status[first_ + r]); }
  void set_status(int64_t r, RowStatus value);

  const PackedTransform& packed_;
  const UpgradeCall& call_;
  const int64_t first_;
  const int64_t rows_;
};

}  // namespace fct
