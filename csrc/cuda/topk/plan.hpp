// Which kernels a search runs, in what pieces, with how much scratch memory. Host code only: made, printed and tested
// without a GPU.
#pragma once

#include <cstdint>
#include <string>

#include "core/matrix.hpp"
#include "cuda/device.hpp"

namespace fct::cuda::topk {

constexpr int64_t kMaxK = 2048;
// Ordinals of rows and seeds are 32 bits, and the last one is no row. A larger gallery is searched in pieces.
constexpr int64_t kMaxRows = (int64_t{1} << 32) - 2 - kMaxK;

// What is asked for.
struct Shape {
  int64_t queries = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t k = 0;
  Dtype query_dtype = Dtype::f32;
  Dtype gallery_dtype = Dtype::f32;
  bool gallery_aligned = false;  // rows start at multiples of 16 bytes
  bool coarse = true;            // score in 16 bits first; the answer is the exact one either way
  bool bytes = false;            // with `coarse`: in int8
};

enum class Path { exact, tiled, fused };

struct Plan {
  Path path = Path::exact;
  // Coarse paths.
  bool bytes = false;  // operands are pairs of int8, always packed; else
  Dtype operand = Dtype::f16;
  bool packed = false;  // operands are made of the gallery's rows, chunk by chunk; else they are the rows as they lie
  int rounded_sides = 0;
  bool wgmma = false;  // the fused path runs on sm_90a's instructions; same result
  int64_t kept = 0;    // candidates a query that are scored exactly
  int64_t query_block = 0;
  int64_t chunk_rows = 0;
  int64_t stripes = 0;  // lists a query that are filled side by side
  // The exact path; of a coarse search what runs for the queries whose result is not proved.
  int64_t exact_query_block = 0;
  int64_t exact_chunk_rows = 0;
  int64_t exact_stripes = 0;
  int64_t scratch_bytes = 0;

  std::string describe() const;
};

// Throws ShapeError for what cannot be searched. `scratch_limit` bounds scratch_bytes as far as one query and one tile
// of rows allow.
Plan make_plan(const Shape& shape, const DeviceFacts& device, int64_t scratch_limit);

// Whether the device can take the fused path on wgmma.
bool fits_wgmma(const DeviceFacts& device);

// Candidates that a coarse search for k keeps: the margin decides how often a proof fails, never the answer.
int64_t kept_for(int64_t k, bool bytes);

}  // namespace fct::cuda::topk
