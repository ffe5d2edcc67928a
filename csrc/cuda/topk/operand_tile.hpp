// Tiles of 16-bit operands, or of pairs of bytes, on their way to the tensor cores.
#pragma once

#include <type_traits>

#include "cuda/simt/simt.hpp"
#include "cuda/topk/rows.hpp"

// Unrolled copies would each keep their addresses in registers that the sums need.
#if defined(__CUDACC__)
#define FCT_KEEP_LOOP _Pragma("unroll 1")
#else
#define FCT_KEEP_LOOP
#endif

namespace fct::cuda::topk {

// Starts the copies of kRows rows from `first_row`, columns [first_col, first_col + cols), cols a multiple of 8, spread
// over `threads` threads. What lies outside of the source becomes zeros. Source rows start at multiples of 16 bytes.
template <int kRows, typename Operand>
FCT_DEVICE void copy_tile(unsigned char* shared, int pitch, const Rows<Operand>& source, int64_t first_row,
                          int first_col, int cols, int threads) {
  const int row_chunks = cols / kChunkElements;
  FCT_KEEP_LOOP
  for (int i = thread_index(); i < kRows * row_chunks; i += threads) {
    const int row = i / row_chunks;
    const int col = i % row_chunks * kChunkElements;
    const int left = source.cols - (first_col + col);
    const int elements = left < 0 ? 0 : left < kChunkElements ? left : kChunkElements;
    const bool inside = first_row + row < source.rows && elements > 0;
    const Operand* const from = inside ? source.row(first_row + row) + first_col + col : source.data;
    copy_async_16(shared + row * pitch + col * kOperandBytes, from, inside ? elements * kOperandBytes : 0);
  }
}

template <typename Operand>
struct WarpTile {
  using Sum = std::conditional_t<std::is_same_v<Operand, BytePair>, int32_t, float>;
  Sum sum[2][8][4];  // [16 queries][8 rows][as in mma.hpp]

  FCT_DEVICE void clear() {
    FCT_UNROLL
    for (int m = 0; m < 2; ++m) {
      FCT_UNROLL
      for (int n = 0; n < 8; ++n) {
        FCT_UNROLL
        for (int i = 0; i < 4; ++i) sum[m][n][i] = 0;
      }
    }
  }

  // Adds 16 columns, or pairs of them: `queries` and `rows` point at the first of them in the warp's first row.
  FCT_DEVICE void add(const unsigned char* queries, int query_pitch, const unsigned char* rows, int row_pitch) {
    const int lane = lane_index();
    uint32_t a[2][4];
    FCT_UNROLL
    for (int m = 0; m < 2; ++m) {
      load_matrix_x4(a[m], queries + (16 * m + lane % 16) * query_pitch + lane / 16 * 16);
    }
    FCT_UNROLL
    for (int n = 0; n < 8; n += 2) {
      uint32_t b[4];
      load_matrix_x4(b, rows + (8 * n + lane % 8 + lane / 16 * 8) * row_pitch + lane / 8 % 2 * 16);
      FCT_UNROLL
      for (int m = 0; m < 2; ++m) {
        mma_16816(Operand{}, sum[m][n], a[m], b[0], b[1]);
        mma_16816(Operand{}, sum[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
};

// A thread holds four queries of its warp's tile, q = 0 .. 3 at query_of(q), and of each the 16 rows row_of(0 .. 15).
FCT_DEVICE int query_of(int q) { return 8 * q + lane_index() / 4; }
FCT_DEVICE int row_of(int r) { return r / 2 * 8 + lane_index() % 4 * 2 + r % 2; }
template <typename Operand>
FCT_DEVICE typename WarpTile<Operand>::Sum sum_of(const WarpTile<Operand>& tile, int q, int r) {
  return tile.sum[q / 2][r / 2][q % 2 * 2 + r % 2];
}
template <typename Operand>
FCT_DEVICE float product_of(const WarpTile<Operand>& tile, int q, int r) {
  return static_cast<float>(sum_of(tile, q, r));
}

}  // namespace fct::cuda::topk
