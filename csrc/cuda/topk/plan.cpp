#include "cuda/topk/plan.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "cuda/topk/scratch.hpp"
#include "cuda/topk/tiles.hpp"

namespace fct::cuda::topk {
namespace {

constexpr int64_t kFusedMaxK = 128;      // beyond, lists grow long and merges frequent
constexpr int64_t kFusedMaxCols = 1023;  // wider rows are worth so much multiplying that scores in memory cost little
constexpr int64_t kFusedMinQueries = 9;  // fewer scores than that are small beside the gallery's own bytes
constexpr int64_t kQueryBlock = 1024;
constexpr int64_t kTiledChunkRows = 65536;
constexpr int64_t kFusedChunkRows = int64_t{1} << 20;
constexpr int64_t kMostByteCols = 66311;   // as on the CPU (core/coarse_gallery.cpp); int32 would hold twice that
constexpr int64_t kRowTile = 128;          // chunks are whole tiles of every scoring kernel
constexpr int64_t kMostByteMargin = 4096;  // keeps a block's selection within shared memory
constexpr int64_t kStripeScores = 8192;    // a selection block's share, at least
constexpr int64_t kStripeTiles = 16;       // a fused stripe's share, at least

static_assert(kRowTile % ScoreExactTile::kRows == 0 && kRowTile % ScoreHalfTile::kRows == 0 &&
              kRowTile % FusedTile::kRows == 0);

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

int64_t operand_cols_of(const Shape& shape) { return shape.bytes ? (shape.cols + 1) / 2 : shape.cols; }

void check(const Shape& shape) {
  if (shape.cols < 1) throw ShapeError("rows without columns have no scores");
  if (shape.k < 1 || shape.k > kMaxK) throw ShapeError("k is " + std::to_string(shape.k) + "; it goes from 1 to 2048");
  if (shape.bytes && shape.cols > kMostByteCols) throw ShapeError("int8 scores need rows of 1 to 66311 values");
  if (shape.rows > kMaxRows) {
    throw ShapeError("the gallery has " + std::to_string(shape.rows) + " rows; one call takes up to " +
                     std::to_string(kMaxRows) + ", search it in pieces");
  }
}

int64_t select_stripes(int64_t queries, int64_t chunk_rows, const DeviceFacts& device) {
  return std::clamp<int64_t>(2 * device.multiprocessors / queries, 1, std::max<int64_t>(chunk_rows / kStripeScores, 1));
}

// A block a multiprocessor.
int64_t wgmma_stripes(const Shape& shape, int64_t query_block, int64_t chunk_rows, const DeviceFacts& device) {
  using Tile = FusedWgmmaTile<false>;
  const int64_t query_tiles = (query_block + Tile::kQueries - 1) / Tile::kQueries;
  const int64_t tile_rows = streams_queries(shape.cols) ? FusedWgmmaTile<true>::kRows : Tile::kRows;
  const int64_t tiles = (chunk_rows + tile_rows - 1) / tile_rows;
  return std::clamp<int64_t>(device.multiprocessors / query_tiles, 1, std::max<int64_t>(tiles / kStripeTiles, 1));
}

int64_t fused_stripes(const Shape& shape, int64_t query_block, int64_t chunk_rows, const DeviceFacts& device) {
  const int64_t resident = std::max<int64_t>(device.shared_bytes / FusedTile::shared_bytes(operand_cols_of(shape)), 1);
  const int64_t query_tiles = (query_block + FusedTile::kQueries - 1) / FusedTile::kQueries;
  const int64_t tiles = (chunk_rows + FusedTile::kRows - 1) / FusedTile::kRows;
  return std::clamp<int64_t>(device.multiprocessors * resident / query_tiles, 1,
                             std::max<int64_t>(tiles / kStripeTiles, 1));
}

Path choose_path(const Shape& shape, const DeviceFacts& device) {
  if (!shape.coarse) return Path::exact;
  const bool on_wgmma = !shape.bytes && fits_wgmma(device);
  const bool fits = on_wgmma || FusedTile::shared_bytes(operand_cols_of(shape)) <= device.shared_bytes;
  const bool wins =
      shape.k <= kFusedMaxK && shape.queries >= kFusedMinQueries && (shape.cols <= kFusedMaxCols || on_wgmma);
  return fits && wins ? Path::fused : Path::tiled;
}

// The operand is the gallery's own format where queries lose nothing by it that float16 would keep; then no copy of the
// gallery is made.
void choose_operand(const Shape& shape, Plan& plan) {
  if (shape.bytes) {
    plan.bytes = plan.packed = true;
    return;
  }
  const bool both_bf16 = shape.gallery_dtype == Dtype::bf16 && shape.query_dtype == Dtype::bf16;
  plan.operand = both_bf16 ? Dtype::bf16 : Dtype::f16;
  plan.packed = shape.gallery_dtype != plan.operand || !shape.gallery_aligned;
  plan.rounded_sides = (shape.gallery_dtype != plan.operand) + (shape.query_dtype != plan.operand);
}

void set_pieces(const Shape& shape, const DeviceFacts& device, int64_t shrink, Plan& plan) {
  const int64_t rows = round_up(std::max<int64_t>(shape.rows, 1), kRowTile);
  const auto piece = [&](int64_t full) {
    return std::min(std::max(full / shrink / kRowTile * kRowTile, kRowTile), rows);
  };
  const int64_t queries = std::max<int64_t>(shape.queries, 1);
  const int64_t block = std::max<int64_t>(std::min(queries, kQueryBlock) / std::max<int64_t>(shrink / 64, 1), 1);
  plan.exact_query_block = block;
  plan.exact_chunk_rows = piece(kTiledChunkRows);
  plan.exact_stripes = select_stripes(block, plan.exact_chunk_rows, device);
  if (plan.path == Path::exact) return;
  plan.query_block = block;
  plan.chunk_rows = piece(plan.path == Path::fused ? kFusedChunkRows : kTiledChunkRows);
  plan.stripes = plan.wgmma                 ? wgmma_stripes(shape, block, plan.chunk_rows, device)
                 : plan.path == Path::fused ? fused_stripes(shape, block, plan.chunk_rows, device)
                                            : select_stripes(block, plan.chunk_rows, device);
}

const char* name_of(Path path) { return path == Path::exact ? "exact" : path == Path::tiled ? "tiled" : "fused"; }

}  // namespace

bool fits_wgmma(const DeviceFacts& device) {
  return device.compute == 90 && device.shared_bytes >= FusedWgmmaTile<false>::kSharedBytes;
}

// int8 allows for an error of 0.013 to 0.015 of a cosine. Of 10 million rows in random directions, k = 10, so near lie
// 1.2 k further rows in 128 dimensions and 4.2 k in 512 (computed, not measured); where more do, the exact kernels take
// over.
int64_t kept_for(int64_t k, bool bytes) {
  return round_up(bytes ? std::min(4 * k + 32, k + kMostByteMargin) : k + std::max<int64_t>(16, k / 8), 32);
}

Plan make_plan(const Shape& shape, const DeviceFacts& device, int64_t scratch_limit) {
  check(shape);
  Plan plan;
  plan.path = choose_path(shape, device);
  if (plan.path != Path::exact) {
    choose_operand(shape, plan);
    plan.wgmma = plan.path == Path::fused && !plan.bytes && fits_wgmma(device);
    plan.kept = kept_for(shape.k, plan.bytes);
  }
  // Pieces are halved until they fit; the smallest ones are taken whatever they need.
  for (int64_t shrink = 1;; shrink *= 2) {
    set_pieces(shape, device, shrink, plan);
    plan.scratch_bytes = place_scratch(plan, shape.cols, shape.k, nullptr).bytes;
    const bool smallest = plan.exact_query_block == 1 && plan.exact_chunk_rows == kRowTile &&
                          (plan.path == Path::exact || plan.chunk_rows == kRowTile);
    if (plan.scratch_bytes <= scratch_limit || smallest) return plan;
  }
}

std::string Plan::describe() const {
  const auto number = [](int64_t value) { return std::to_string(value); };
  std::string text = std::string("topk ") + name_of(path) + (wgmma ? " on wgmma" : "");
  if (path != Path::exact) {
    text += std::string(", ") +
            (bytes                    ? "int8"
             : operand == Dtype::bf16 ? "bf16"
                                      : "fp16") +
            (packed ? " packed" : " in place") + ", keeps " + number(kept) + ", " + number(query_block) +
            " queries x " + number(chunk_rows) + " rows in " + number(stripes) + " stripes; exact where unproved";
  }
  return text + ": " + number(exact_query_block) + " queries x " + number(exact_chunk_rows) + " rows in " +
         number(exact_stripes) + " stripes; scratch " + number(scratch_bytes) + " bytes";
}

}  // namespace fct::cuda::topk
