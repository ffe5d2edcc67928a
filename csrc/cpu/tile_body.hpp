// y = product(x, panels): the one inner loop of upgrade, topk and rank, written over Vec.
//
// A register tile is kTileRows rows by kTilePanels panels. The loops, outside in: tile of panels, run of depth, tile of
// rows. So a run of the panels (64 KiB at AVX-512) is used for all rows of the block while it is near, and the rows
// stay in L2. Reduction order of one y[r][c], whatever the tile, block or thread: k ascending within a run, runs
// ascending. This is what makes a row's bits independent of its neighbours.
#pragma once

#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

constexpr int kVecsPerPanel = kPanelWidth / Vec::kLanes;

// The row tile at x, y and the panel tile at panels, over depth [begin, end).
struct TileStep {
  const float* x;
  const float* panels;
  const float* bias;
  float* y;
  int64_t begin;
  int64_t end;
};

template <int Rows, int Panels, Product product>
void run_tile(const TileArgs& args, const TileStep& step) {
  constexpr int Vecs = Panels * kVecsPerPanel;
  const int64_t panel_stride = args.depth * kPanelWidth;
  Vec sum[Rows][Vecs];
#pragma GCC unroll 32
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 32
    for (int c = 0; c < Vecs; ++c) sum[r][c] = Vec::splat(0.0f);
  }
  const float* const column = step.panels + step.begin * kPanelWidth;
  const float* const x = step.x + step.begin;
  const int64_t length = step.end - step.begin;
  for (int64_t k = 0; k < length; ++k) {
    Vec w[Vecs];
#pragma GCC unroll 32
    for (int c = 0; c < Vecs; ++c) {
      w[c] =
          Vec::load(column + k * kPanelWidth + (c / kVecsPerPanel) * panel_stride + (c % kVecsPerPanel) * Vec::kLanes);
    }
#pragma GCC unroll 32
    for (int r = 0; r < Rows; ++r) {
      const Vec value = Vec::splat(x[r * args.x_stride + k]);
#pragma GCC unroll 32
      for (int c = 0; c < Vecs; ++c) {
        if constexpr (product == Product::dot) {
          sum[r][c] = Vec::mul_add(value, w[c], sum[r][c]);
        } else if constexpr (product == Product::dot_unfused) {
          sum[r][c] = sum[r][c] + value * w[c];
        } else {
          const Vec difference = value - w[c];
          sum[r][c] = Vec::minus_mul_add(difference, difference, sum[r][c]);
        }
      }
    }
  }
  const bool first = step.begin == 0;
  const bool last = step.end == args.depth;
#pragma GCC unroll 32
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 32
    for (int c = 0; c < Vecs; ++c) {
      float* const out = step.y + r * args.y_stride + c * Vec::kLanes;
      Vec total = first ? sum[r][c] : Vec::load(out) + sum[r][c];
      if (last && args.bias) total = total + Vec::load(step.bias + c * Vec::kLanes);
      if (last && args.relu) total = Vec::relu(total);
      total.store(out);
    }
  }
}

// Picks the tile of exactly `rows` by `panels`.
template <int Rows, int Panels, Product product>
void pick_tile(const TileArgs& args, const TileStep& step, int64_t rows, int64_t panels) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return pick_tile<Rows - 1, Panels, product>(args, step, rows, panels);
  }
  if constexpr (Panels > 1) {
    if (panels < Panels) return pick_tile<Rows, Panels - 1, product>(args, step, rows, panels);
  }
  run_tile<Rows, Panels, product>(args, step);
}

// Asks for the panels' next run while the rows of this one are worked on, a share a row tile: on the wide layers the
// weights come from L3, and the hardware's own prefetcher gives up at each page. Always inline: GCC takes a function
// that only prefetches for one without effect, and drops the call.
template <int Panels>
[[gnu::always_inline]] inline void prefetch_share(const float* panels, int64_t panel_stride, int64_t share,
                                                  int64_t shares) {
  const int64_t begin = kDepthRun * share / shares;
  const int64_t end = kDepthRun * (share + 1) / shares;
  for (int64_t p = 0; p < Panels; ++p) {
    const float* const lines = panels + p * panel_stride;
    for (int64_t k = begin; k < end; ++k) __builtin_prefetch(lines + k * kPanelWidth, 0, 2);
  }
}

template <int Rows, int Panels, Product product>
void tile_all(const TileArgs& args) {
  const int64_t panel_stride = args.depth * kPanelWidth;
  const int64_t row_tiles = (args.rows + Rows - 1) / Rows;
  for (int64_t p = 0; p < args.panel_count; p += Panels) {
    const int64_t panels = args.panel_count - p;
    for (int64_t k = 0; k < args.depth; k += kDepthRun) {
      const int64_t end = k + kDepthRun < args.depth ? k + kDepthRun : args.depth;
      const bool last_run = end == args.depth;
      const float* const panel = args.panels + p * panel_stride;
      const float* const next = last_run ? panel + Panels * panel_stride : panel + end * kPanelWidth;
      // With one row tile a panel is used once: the hardware streams it well enough alone.
      const bool has_next = row_tiles > 1 && (!last_run || p + Panels < args.panel_count);
      for (int64_t r = 0; r < args.rows; r += Rows) {
        const TileStep step{.x = args.x + r * args.x_stride,
                            .panels = panel,
                            .bias = args.bias ? args.bias + p * kPanelWidth : nullptr,
                            .y = args.y + r * args.y_stride + p * kPanelWidth,
                            .begin = k,
                            .end = end};
        if (has_next) prefetch_share<Panels>(next, panel_stride, r / Rows, row_tiles);
        pick_tile<Rows, Panels, product>(args, step, args.rows - r, panels);
      }
    }
  }
}

template <Product product>
void tile_product(const TileArgs& args) {
  if (args.rows == 1) {  // more panels instead of rows, else one sum would wait for the other
    tile_all<1, Vec::kOneRowPanels, product>(args);
  } else {
    tile_all<Vec::kTileRows, Vec::kTilePanels, product>(args);
  }
}

void tile(const TileArgs* args) {
  if (args->product == Product::dot) {
    tile_product<Product::dot>(*args);
  } else if (args->product == Product::dot_unfused) {
    tile_product<Product::dot_unfused>(*args);
  } else {
    tile_product<Product::minus_distance>(*args);
  }
}

}  // namespace
}  // namespace fct
