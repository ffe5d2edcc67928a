// Exact scores of queries x gallery rows, by fused multiply-adds in float32 on the ordinary cores.
//
// A block of 256 threads makes a tile of 64 queries x 128 rows, each thread 4 x 8 of it. Columns come in steps of 8
// through shared memory, column-major, so that a thread reads its rows as 16-byte words. Each score is one chain of
// fused multiply-adds in column order, cut every 128 columns: the bits of rows.hpp, whatever the tile.
#pragma once

#include "cuda/topk/rows.hpp"

namespace fct::cuda::topk {

template <typename Stored>
struct ScoreExactArgs {
  const float* queries;        // exact elements [.., cols]
  const uint32_t* query_list;  // which of them, or null for all in order
  int64_t query_count;
  Rows<Stored> gallery;
  const double* scales;  // [gallery rows], for the cosine
  float* scores;         // [query_count, score_stride]
  int64_t score_stride;
};

struct alignas(16) Float4 {
  float v[4];
};

template <Metric metric, typename Stored>
FCT_DEVICE void score_exact_body(const ScoreExactArgs<Stored>& args, unsigned char* shared) {
  using Tile = ScoreExactTile;
  constexpr int kQueryLoads = Tile::kQueries * Tile::kDepth / Tile::kThreads;
  constexpr int kRowLoads = Tile::kRows * Tile::kDepth / Tile::kThreads;
  float* const query_tile = reinterpret_cast<float*>(shared);
  float* const row_tile = query_tile + Tile::kDepth * Tile::kQueryPitch;
  const int64_t query_tiles = (args.query_count + Tile::kQueries - 1) / Tile::kQueries;
  const int64_t first_query = block_index() % query_tiles * Tile::kQueries;
  const int64_t first_row = block_index() / query_tiles * Tile::kRows;
  const int cols = args.gallery.cols;
  const auto inside_of = [](int64_t count, int64_t first, int tile) {
    return static_cast<int>(count - first < tile ? count - first : tile);
  };
  const int queries = inside_of(args.query_count, first_query, Tile::kQueries);
  const int rows = inside_of(args.gallery.rows, first_row, Tile::kRows);

  // Loads: thread -> column t % 8 of rows t / 8 + 32 i.
  const int load_col = thread_index() % Tile::kDepth;
  const int load_row = thread_index() / Tile::kDepth;
  constexpr int kLoadRows = Tile::kThreads / Tile::kDepth;
  float next_query[kQueryLoads];
  float next_row[kRowLoads];
  uint32_t source_query[kQueryLoads];
  FCT_UNROLL
  for (int i = 0; i < kQueryLoads; ++i) {
    const int64_t q = first_query + load_row + i * kLoadRows;
    source_query[i] =
        args.query_list != nullptr && q < args.query_count ? args.query_list[q] : static_cast<uint32_t>(q);
  }
  const auto fetch = [&](int depth) {
    const int c = depth + load_col;
    FCT_UNROLL
    for (int i = 0; i < kQueryLoads; ++i) {
      const int q = load_row + i * kLoadRows;
      const bool inside = q < queries && c < cols;
      next_query[i] = inside ? args.queries[source_query[i] * cols + c] : 0.0f;
    }
    FCT_UNROLL
    for (int i = 0; i < kRowLoads; ++i) {
      const int r = load_row + i * kLoadRows;
      const bool inside = r < rows && c < cols;
      const double scale = metric == Metric::cosine && inside ? args.scales[first_row + r] : 1.0;
      next_row[i] = inside ? exact_element<metric>(args.gallery.row(first_row + r)[c], scale) : 0.0f;
    }
  };
  const auto put = [&] {
    FCT_UNROLL
    for (int i = 0; i < kQueryLoads; ++i) {
      query_tile[load_col * Tile::kQueryPitch + load_row + i * kLoadRows] = next_query[i];
    }
    FCT_UNROLL
    for (int i = 0; i < kRowLoads; ++i) {
      row_tile[load_col * Tile::kRowPitch + load_row + i * kLoadRows] = next_row[i];
    }
  };

  // Sums: thread -> queries 4 ty + i, rows 4 tx + j and 64 + 4 tx + j.
  const int tx = thread_index() % 16;
  const int ty = thread_index() / 16;
  float total[4][8] = {};
  float run[4][8] = {};
  fetch(0);
  for (int depth = 0; depth < cols; depth += Tile::kDepth) {
    put();
    sync_block();
    if (depth + Tile::kDepth < cols) fetch(depth + Tile::kDepth);
    FCT_UNROLL
    for (int c = 0; c < Tile::kDepth; ++c) {
      const Float4 q = *reinterpret_cast<const Float4*>(query_tile + c * Tile::kQueryPitch + 4 * ty);
      const Float4 low = *reinterpret_cast<const Float4*>(row_tile + c * Tile::kRowPitch + 4 * tx);
      const Float4 high = *reinterpret_cast<const Float4*>(row_tile + c * Tile::kRowPitch + 64 + 4 * tx);
      FCT_UNROLL
      for (int i = 0; i < 4; ++i) {
        FCT_UNROLL
        for (int j = 0; j < 4; ++j) {
          run[i][j] = exact_step<metric>(q.v[i], low.v[j], run[i][j]);
          run[i][4 + j] = exact_step<metric>(q.v[i], high.v[j], run[i][4 + j]);
        }
      }
    }
    const int next = depth + Tile::kDepth;
    if (next % kDepthRun == 0 || next >= cols) {
      FCT_UNROLL
      for (int i = 0; i < 4; ++i) {
        FCT_UNROLL
        for (int j = 0; j < 8; ++j) {
          total[i][j] += run[i][j];
          run[i][j] = 0.0f;
        }
      }
    }
    sync_block();
  }

  FCT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int q = 4 * ty + i;
    float* const scores = args.scores + (first_query + q) * args.score_stride + first_row;
    FCT_UNROLL
    for (int j = 0; j < 8; ++j) {
      const int r = 4 * tx + j / 4 * 64 + j % 4;
      if (q < queries && r < rows) scores[r] = total[i][j];
    }
  }
}

}  // namespace fct::cuda::topk
