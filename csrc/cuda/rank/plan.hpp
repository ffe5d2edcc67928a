// In what pieces an evaluation runs, with how much scratch memory. Host code only: made and tested without a GPU.
#pragma once

#include <cstdint>
#include <string>

#include "core/rank.hpp"
#include "cuda/device.hpp"
#include "cuda/rank/tiles.hpp"

namespace fct::cuda::rank {

// Rows are numbered and counted in 32 bits.
constexpr int64_t kMaxRows = (int64_t{1} << 32) - 2;

struct Shape {
  int64_t queries = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  Metric metric = Metric::cosine;
  Dtype gallery_dtype = Dtype::f32;
};

struct Plan {
  int64_t query_block = 0;  // queries whose scores exist at a time, at most
  int64_t key_limit = 0;    // positives of a block, at most, but for a block of one query
  int64_t keys = 0;         // positives of the largest block
  int64_t chunk_rows = 0;   // gallery rows whose scores exist at a time; where that is not all, scores are made twice
  int64_t stripes = 0;      // blocks that count one query's scores
  bool copied = false;      // gallery rows are made float32, for the cosine at unit norm, chunk by chunk
  int64_t scratch_bytes = 0;

  std::string describe() const;
};

// Gallery rows of the query's class.
int64_t class_size(const Positives& positives, int64_t query);

// The query after the block that begins with `first`.
int64_t block_end(const Plan& plan, const Positives& positives, int64_t queries, int64_t first);

// Throws ShapeError for what cannot be ranked. `scratch_limit` bounds scratch_bytes as far as the class table, one
// query with its positives and one tile of rows allow.
Plan make_plan(const Shape& shape, const Positives& positives, const DeviceFacts& device, int64_t scratch_limit);

// The scratch memory, laid out. `base` is null to measure.
struct Scratch {
  uint32_t* class_rows = nullptr;    // [rows]
  float* queries = nullptr;          // [query_block, cols]
  float* gallery = nullptr;          // [chunk_rows, cols], where the plan says `copied`
  float* scores = nullptr;           // [query_block, chunk_rows]
  QueryPositives* blocks = nullptr;  // [query_block]
  Key* keys = nullptr;               // [keys]
  uint32_t* reaching = nullptr;      // [keys]
  uint32_t* ahead = nullptr;         // [query_block]
  int64_t* first_rank = nullptr;     // [query_block]
  double* average_precision = nullptr;
  int64_t* positives = nullptr;
  int64_t bytes = 0;
};
Scratch place_scratch(const Plan& plan, int64_t rows, int64_t cols, unsigned char* base);

}  // namespace fct::cuda::rank
