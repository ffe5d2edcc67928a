#include "cuda/rank/plan.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "cuda/topk/scratch.hpp"

namespace fct::cuda::rank {
namespace {

constexpr int64_t kQueryBlock = 1024;
constexpr int64_t kChunkRows = int64_t{1} << 18;
constexpr int64_t kRowTile = 128;        // chunks are whole tiles of the scoring kernel
constexpr int64_t kStripeScores = 8192;  // a counting block's share, at least
constexpr int64_t kKeyBytes = sizeof(Key) + sizeof(uint32_t);

void set_pieces(const Shape& shape, const Positives& positives, const DeviceFacts& device, int64_t limit,
                int64_t shrink, Plan& plan) {
  const int64_t rows = std::max<int64_t>((shape.rows + kRowTile - 1) / kRowTile * kRowTile, kRowTile);
  plan.chunk_rows = std::min(std::max(kChunkRows / shrink / kRowTile * kRowTile, kRowTile), rows);
  const int64_t block = std::clamp<int64_t>(shape.queries, 1, kQueryBlock);
  plan.query_block = std::max<int64_t>(block / std::max<int64_t>(shrink / 64, 1), 1);
  plan.key_limit = std::max<int64_t>(limit / 4 / std::max<int64_t>(shrink / 64, 1) / kKeyBytes, 1);
  plan.keys = 0;
  for (int64_t first = 0; first < shape.queries;) {
    const int64_t end = block_end(plan, positives, shape.queries, first);
    int64_t keys = 0;
    for (; first < end; ++first) keys += class_size(positives, first);
    plan.keys = std::max(plan.keys, keys);
  }
  plan.stripes = std::clamp<int64_t>(8 * device.multiprocessors / plan.query_block, 1,
                                     std::max<int64_t>(plan.chunk_rows / kStripeScores, 1));
}

}  // namespace

int64_t class_size(const Positives& positives, int64_t query) {
  const int64_t c = positives.query_classes[query];
  return c < 0 ? 0 : positives.class_starts[c + 1] - positives.class_starts[c];
}

int64_t block_end(const Plan& plan, const Positives& positives, int64_t queries, int64_t first) {
  int64_t end = first + 1;
  int64_t keys = class_size(positives, first);
  for (; end < std::min(first + plan.query_block, queries); ++end) {
    keys += class_size(positives, end);
    if (keys > plan.key_limit) break;
  }
  return end;
}

Plan make_plan(const Shape& shape, const Positives& positives, const DeviceFacts& device, int64_t scratch_limit) {
  if (shape.cols < 1) throw ShapeError("rows without columns have no scores");
  if (shape.rows > kMaxRows) {
    throw ShapeError("the gallery has " + std::to_string(shape.rows) + " rows; on a GPU up to " +
                     std::to_string(kMaxRows) + " are ranked, more on the CPU");
  }
  Plan plan;
  plan.copied = shape.metric == Metric::cosine || shape.gallery_dtype != Dtype::f32;
  // Pieces are halved until they fit; the smallest ones are taken whatever they need.
  for (int64_t shrink = 1;; shrink *= 2) {
    set_pieces(shape, positives, device, scratch_limit, shrink, plan);
    plan.scratch_bytes = place_scratch(plan, shape.rows, shape.cols, nullptr).bytes;
    const bool smallest = plan.query_block == 1 && plan.chunk_rows == kRowTile;
    if (plan.scratch_bytes <= scratch_limit || smallest) return plan;
  }
}

Scratch place_scratch(const Plan& plan, int64_t rows, int64_t cols, unsigned char* base) {
  topk::Arena arena(base);
  Scratch scratch;
  scratch.class_rows = arena.take<uint32_t>(rows);
  scratch.queries = arena.take<float>(plan.query_block * cols);
  scratch.gallery = arena.take<float>(plan.copied ? plan.chunk_rows * cols : 0);
  scratch.scores = arena.take<float>(plan.query_block * plan.chunk_rows);
  scratch.blocks = arena.take<QueryPositives>(plan.query_block);
  scratch.keys = arena.take<Key>(plan.keys);
  scratch.reaching = arena.take<uint32_t>(plan.keys);
  scratch.ahead = arena.take<uint32_t>(plan.query_block);
  scratch.first_rank = arena.take<int64_t>(plan.query_block);
  scratch.average_precision = arena.take<double>(plan.query_block);
  scratch.positives = arena.take<int64_t>(plan.query_block);
  scratch.bytes = arena.peak();
  return scratch;
}

std::string Plan::describe() const {
  return "rank, " + std::to_string(query_block) + " queries x " + std::to_string(chunk_rows) + " rows" +
         (copied ? ", copied" : "") + ", " + std::to_string(stripes) + " stripes, up to " + std::to_string(keys) +
         " positives; scratch " + std::to_string(scratch_bytes) + " bytes";
}

}  // namespace fct::cuda::rank
