// The scratch memory of a search, laid out: one function both measures and places it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/topk/plan.hpp"
#include "cuda/topk/tiles.hpp"

namespace fct::cuda::topk {

// One selection over a block of queries.
struct Lists {
  Key* stripes = nullptr;  // [queries, stripes, kept]
  Key* stripe_pivots = nullptr;
  Key* merged = nullptr;  // [queries, kept]; the stripes' own where there is but one with its pivot
  Key* merged_pivots = nullptr;
  int64_t list_bytes = 0;  // of all four, which lie together and start as zeros
};

struct Scratch {
  float* exact_queries = nullptr;  // [query_block, cols]
  uint32_t* unproved = nullptr;    // [query_block]
  uint32_t* unproved_count = nullptr;
  // Coarse scoring.
  void* query_operands = nullptr;  // [query_block, operand_stride]
  QueryFacts* query_facts = nullptr;
  uint32_t* query_loss = nullptr;
  RowFacts* row_facts = nullptr;     // [chunk_rows]
  void* gallery_operands = nullptr;  // [chunk_rows, operand_stride]
  Lists coarse_lists;
  float* scores = nullptr;  // [query_block, chunk_rows]
  // Exact scoring, in the same place: it begins when coarse scoring has ended.
  double* scales = nullptr;  // [exact_chunk_rows]
  Lists exact_lists;
  float* exact_scores = nullptr;  // [exact_query_block, exact_chunk_rows]
  int64_t bytes = 0;
};

// Operands of a row: elements in 16 bits, or pairs of bytes.
inline int64_t operand_cols_of(const Plan& plan, int64_t cols) { return plan.bytes ? (cols + 1) / 2 : cols; }
inline int64_t operand_stride_of(int64_t operand_cols) { return (operand_cols + 7) / 8 * 8; }

class Arena {
 public:
  explicit Arena(unsigned char* base) : base_(base) {}

  template <typename T>
  T* take(int64_t count) {
    T* const place = reinterpret_cast<T*>(base_ + at_);
    at_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    peak_ = std::max(peak_, at_);
    return place;
  }
  int64_t at() const { return at_; }
  void back_to(int64_t at) { at_ = at; }
  int64_t peak() const { return peak_; }

 private:
  unsigned char* base_;
  int64_t at_ = 0;
  int64_t peak_ = 0;
};

// `with_pivots`: the stripes' pivots are filled in with them, which the fused kernel does not do.
inline Lists place_lists(Arena& arena, int64_t queries, int64_t stripes, int64_t kept, bool with_pivots) {
  const int64_t begin = arena.at();
  Lists lists;
  lists.stripes = arena.take<Key>(queries * stripes * kept);
  lists.stripe_pivots = arena.take<Key>(queries * stripes);
  const bool apart = stripes > 1 || !with_pivots;
  lists.merged = apart ? arena.take<Key>(queries * kept) : lists.stripes;
  lists.merged_pivots = apart ? arena.take<Key>(queries) : lists.stripe_pivots;
  lists.list_bytes = arena.at() - begin;
  return lists;
}

// `base` is null to measure, else a multiple of 256.
inline Scratch place_scratch(const Plan& plan, int64_t cols, int64_t k, unsigned char* base) {
  Arena arena(base);
  Scratch scratch;
  const bool coarse = plan.path != Path::exact;
  const int64_t queries = coarse ? plan.query_block : plan.exact_query_block;
  scratch.exact_queries = arena.take<float>(queries * cols);
  scratch.unproved = arena.take<uint32_t>(queries);
  scratch.unproved_count = arena.take<uint32_t>(1);
  const int64_t shared = arena.at();
  if (coarse) {
    const int64_t stride = operand_stride_of(operand_cols_of(plan, cols));
    scratch.query_operands = arena.take<uint16_t>(queries * stride);
    scratch.query_facts = arena.take<QueryFacts>(queries);
    scratch.query_loss = arena.take<uint32_t>(1);
    scratch.row_facts = arena.take<RowFacts>(plan.chunk_rows);
    if (plan.packed) scratch.gallery_operands = arena.take<uint16_t>(plan.chunk_rows * stride);
    scratch.coarse_lists = place_lists(arena, queries, plan.stripes, plan.kept, plan.path == Path::tiled);
    if (plan.path == Path::tiled) scratch.scores = arena.take<float>(queries * plan.chunk_rows);
    arena.back_to(shared);
  }
  scratch.scales = arena.take<double>(plan.exact_chunk_rows);
  scratch.exact_lists = place_lists(arena, plan.exact_query_block, plan.exact_stripes, k, true);
  scratch.exact_scores = arena.take<float>(plan.exact_query_block * plan.exact_chunk_rows);
  scratch.bytes = arena.peak();
  return scratch;
}

}  // namespace fct::cuda::topk
