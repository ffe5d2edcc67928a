// The seam between portable code and the ISA levels: plain pointers and sizes, nothing inline, no vector types.
//
// Every level compiles the same bodies (cpu/*_body.hpp) with its own flags and fills one table. An ISA file defines one
// global symbol, its table, and no weak one: shared inline code would leak wide instructions into the fallback.
#pragma once

#include <cstdint>

namespace fct {

// Weights and gallery rows are stored in panels of 16 columns: panel p holds element [k][c] of columns 16 p ... 16 p +
// 15 at panels[(p * depth + k) * 16 + c], zero padded. One cache line a depth step, whatever the vector width, so that
// one packed copy serves every level.
constexpr int64_t kPanelWidth = 16;

// Sums over depth are cut into runs of this length, each summed in order and added to the total in order: the error
// of one long fp32 chain would pass the numeric contract on wide layers.
constexpr int64_t kDepthRun = 128;

enum class Product : int32_t {
  dot = 0,             // y = sum_k x_k w_k
  minus_distance = 1,  // y = -sum_k (x_k - w_k)^2
  dot_unfused = 2,     // as dot, each product rounded before it is added: the same bits at every level
};

// y[r][c] = product(x[r], column c) (+ bias[c], then ReLU where asked; NaN passes). Writes whole panels of y: columns
// up to the next multiple of 16, padding included.
struct TileArgs {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  const float* panels;
  int64_t panel_count;
  int64_t depth;
  const float* bias;  // [16 * panel_count] or null
  bool relu;
  Product product;
  float* y;
  int64_t y_stride;
};

// Converts rows to float32 and writes `finite[r]` = 1 where all values are finite.
struct LoadArgs {
  const unsigned char* source;  // rows of `dtype` (see core/matrix.hpp), `source_stride` in elements
  int32_t dtype;
  int64_t source_stride;
  int64_t rows;
  int64_t cols;
  float* target;
  int64_t target_stride;
  unsigned char* finite;  // [rows]
};

// Sum of squares of each row in float64.
struct SquaresArgs {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t cols;
  double* squares;  // [rows]
};

// Multiplies each row by its factor in float64, rounded once to float32.
struct ScaleArgs {
  float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t cols;
  const double* factors;  // [rows]
};

// Rows [rows, depth] -> panels of 16 rows each, zero padded.
struct PackArgs {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t depth;
  float* panels;
};

// Positions i in [0, count) with score[i] > threshold, in order; returns how many. NaN never passes.
struct FilterArgs {
  const float* scores;
  int64_t count;
  float threshold;
  int32_t* positions;  // [count]
};

struct KernelTable {
  void (*tile)(const TileArgs*);
  void (*load)(const LoadArgs*);
  void (*squares)(const SquaresArgs*);
  void (*scale)(const ScaleArgs*);
  void (*pack)(const PackArgs*);
  int64_t (*filter)(const FilterArgs*);
  int64_t (*peak)(int64_t rounds, float* sink);  // see cpu/peak_body.hpp; so in the other tables
};

// The same in bfloat16 with float32 sums. Panels hold pairs of depth steps: element [k][c] of panel p is at
// panels[((p * pairs + k / 2) * 16 + c) * 2 + k % 2], zero padded. Rows of x are zero from `depth` up to 2 * pairs.
struct Bf16TileArgs {
  const uint16_t* x;
  int64_t x_stride;  // in elements, even
  int64_t rows;
  const uint16_t* panels;
  int64_t panel_count;
  int64_t pairs;
  const float* bias;  // [16 * panel_count]
  bool relu;
  void* y;  // bfloat16 where `narrow`, else float32
  int64_t y_stride;
  bool narrow;
};

// float32 rows -> bfloat16, rounded half to even; writes zeros from `cols` up to `padded_cols`.
struct Bf16NarrowArgs {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t cols;
  int64_t padded_cols;
  uint16_t* y;
  int64_t y_stride;
};

struct Bf16Table {
  void (*tile)(const Bf16TileArgs*);
  void (*narrow)(const Bf16NarrowArgs*);
  int64_t (*peak)(int64_t rounds, float* sink);
};

// The same in int8: activations in unsigned bytes, weights in signed ones, sums exact in int32 (depth <= 66311 sees to
// that, in any order). Panels hold quads of depth steps: element [k][c] of panel p is at
// panels[((p * quads + k / 4) * 16 + c) * 4 + k % 4], zero padded, within -127 .. 127. Rows of x are readable up to
// 4 * quads; what lies past the depth meets zero weights.
//
// The definition that every level, and any other device, must meet bit for bit; each float32 operation is rounded half
// to even and none is fused:
//   y = float32(sum) * scale[c] + bias[c]
//   narrow: q = round_half_even(min(max(y, 0), 255)), 0 for NaN
//   else:   y, then ReLU where asked
struct Int8TileArgs {
  const uint8_t* x;
  int64_t x_stride;
  int64_t rows;
  const int8_t* panels;
  int64_t panel_count;
  int64_t quads;
  const float* scale;  // [16 * panel_count]
  const float* bias;   // [16 * panel_count]
  bool relu;
  void* y;  // unsigned bytes where `narrow`, else float32
  int64_t y_stride;
  bool narrow;
};

// float32 rows -> unsigned bytes by the rule above; writes whole panels of 16 columns.
struct Int8NarrowArgs {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t panel_count;
  uint8_t* y;
  int64_t y_stride;
};

struct Int8Table {
  void (*tile)(const Int8TileArgs*);
  void (*narrow)(const Int8NarrowArgs*);
  int64_t (*peak)(int64_t rounds, float* sink);
};

extern const KernelTable kScalarKernels;
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
extern const Bf16Table kAvx512Bf16Kernels;
extern const Bf16Table kAmxBf16Kernels;
extern const Int8Table kScalarInt8Kernels;
extern const Int8Table kAvx2Int8Kernels;
extern const Int8Table kAvx512VnniInt8Kernels;
extern const Int8Table kAmxInt8Kernels;

}  // namespace fct
