// A warp's tile of the fused kernel: 32 rows of activations in shared memory, and the caller's rows that fill it.
#pragma once

#include "core/matrix.hpp"
#include "cuda/simt/simt.hpp"
#include "cuda/upgrade/fused_args.hpp"
#include "cuda/upgrade/load_rows.hpp"
#include "cuda/upgrade/tile.hpp"

namespace fct::cuda {

template <typename Element>
class FusedTile {
 public:
  FCT_DEVICE FusedTile(const FusedArgs& args, unsigned char* shared)
      : rows_(shared + args.rows_at + warp_index() * kFusedRows * args.row_bytes),
        status_(shared + args.status_at + warp_index() * kFusedRows),
        row_bytes_(args.row_bytes) {}

  FCT_DEVICE unsigned char* row(int r) const { return rows_ + r * row_bytes_; }
  FCT_DEVICE unsigned char& status(int r) const { return status_[r]; }

  // The tile becomes that of `count` rows from `first` on; the others are zeros.
  FCT_DEVICE void start(int64_t first, int count) {
    first_ = first;
    count_ = count;
    status(lane_index()) = kRowOk;
    sync_warp();  // the tile before, in the same place, was written by all lanes
  }
  FCT_DEVICE int64_t first() const { return first_; }
  FCT_DEVICE int count() const { return count_; }

  // Columns of the caller's rows from byte `y_at` of a row on, padded with zeros to whole chunks.
  FCT_DEVICE void load(const FusedInput& input, int y_at) {
    switch (static_cast<Dtype>(input.dtype)) {
      case Dtype::f32:
        return load_from<float>(input, y_at);
      case Dtype::f16:
        return load_from<Half>(input, y_at);
      case Dtype::bf16:
        return load_from<Bfloat>(input, y_at);
    }
  }

  // Each lane one row.
  FCT_DEVICE static void prefetch(const FusedInput& input, int64_t first, int64_t rows) {
    const int64_t r = first + lane_index();
    if (r >= rows || input.data == nullptr) return;
    const bool wide = static_cast<Dtype>(input.dtype) == Dtype::f32;
    const unsigned char* const source = wide ? source_row<float>(input, r) : source_row<Half>(input, r);
    for (int at = 0; at < input.columns * (wide ? 4 : 2); at += kStepBytes) prefetch_l2(source + at);
  }

 private:
  static constexpr int kElementBytes = static_cast<int>(sizeof(Element));

  template <typename Source>
  FCT_DEVICE static const unsigned char* source_row(const FusedInput& input, int64_t r) {
    return reinterpret_cast<const unsigned char*>(static_cast<const Source*>(input.data) + r * input.stride);
  }

  template <typename Source>
  FCT_DEVICE void load_from(const FusedInput& input, int y_at) {
    constexpr int64_t kBytes = 4 * static_cast<int64_t>(sizeof(Source));
    const bool aligned = reinterpret_cast<uintptr_t>(input.data) % kBytes == 0 && input.stride % 4 == 0;
    if (aligned && input.columns % 4 == 0) {
      load_units<Source, 4>(input, y_at);
    } else {
      load_units<Source, 1>(input, y_at);
    }
  }

  // The warp walks the tile's units of kUnit elements row by row, eight at a time, so that their latencies overlap.
  template <typename Source, int kUnit>
  FCT_DEVICE void load_units(const FusedInput& input, int y_at) {
    struct alignas(kUnit * sizeof(Source)) From {
      Source values[kUnit];
    };
    struct alignas(kUnit * sizeof(Element)) To {
      Element values[kUnit];
    };
    constexpr int kBatch = 8;
    const int units = (input.columns + 7) / 8 * 8 / kUnit;
    const int row_step = kWarpLanes / units, unit_step = kWarpLanes % units;
    int next_row = lane_index() / units, next_unit = lane_index() % units;
    while (next_row < kFusedRows) {
      From from[kBatch];
      int rows[kBatch], columns[kBatch];
      FCT_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        rows[i] = next_row;
        columns[i] = next_unit * kUnit;
        from[i] = From{};
        if (rows[i] < count_ && columns[i] < input.columns) {
          from[i] = *reinterpret_cast<const From*>(source_row<Source>(input, first_ + rows[i]) +
                                                   columns[i] * static_cast<int>(sizeof(Source)));
        }
        next_row += row_step;
        next_unit += unit_step;
        if (next_unit >= units) {
          next_unit -= units;
          ++next_row;
        }
      }
      FCT_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        if (rows[i] >= kFusedRows) break;
        bool finite = true;
        To to;
        FCT_UNROLL
        for (int e = 0; e < kUnit; ++e) to.values[e] = loaded<Element>(widen(from[i].values[e]), finite);
        *reinterpret_cast<To*>(row(rows[i]) + y_at + columns[i] * kElementBytes) = to;
        if (!finite) status(rows[i]) = kRowNonfiniteInput;
      }
    }
  }

  unsigned char* const rows_;
  unsigned char* const status_;
  const int row_bytes_;
  int64_t first_ = 0;
  int count_ = 0;
};

}  // namespace fct::cuda
