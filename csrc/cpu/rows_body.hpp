// Row work around the tiles: widening loads, norms, panels, and the threshold filter of topk. Written over Vec and
// transpose_block.
#pragma once

#include "core/half.hpp"
#include "core/matrix.hpp"
#include "cpu/kernel_table.hpp"

namespace fct {
namespace {

// x - x is 0 for finite x and NaN otherwise, so one running sum finds any bad value of a row.
template <typename Element, typename LoadVec, typename LoadOne>
bool load_row(const Element* source, int64_t cols, float* target, LoadVec load_vec, LoadOne load_one) {
  Vec bad = Vec::splat(0.0f);
  int64_t c = 0;
  for (; c + Vec::kLanes <= cols; c += Vec::kLanes) {
    const Vec x = load_vec(source + c);
    x.store(target + c);
    bad = bad + (x - x);
  }
  float lanes[Vec::kLanes];
  bad.store(lanes);
  float total = 0.0f;
  for (float lane : lanes) total += lane;
  for (; c < cols; ++c) {
    target[c] = load_one(source[c]);
    total += target[c] - target[c];
  }
  return total == 0.0f;
}

void load(const LoadArgs* args) {
  for (int64_t r = 0; r < args->rows; ++r) {
    float* const target = args->target + r * args->target_stride;
    const int64_t offset = r * args->source_stride;
    bool finite = false;
    if (args->dtype == static_cast<int32_t>(Dtype::f32)) {
      const float* const row = reinterpret_cast<const float*>(args->source) + offset;
      finite =
          load_row(row, args->cols, target, [](const float* p) { return Vec::load(p); }, [](float x) { return x; });
    } else {
      const uint16_t* const row = reinterpret_cast<const uint16_t*>(args->source) + offset;
      finite = args->dtype == static_cast<int32_t>(Dtype::f16)
                   ? load_row(row, args->cols, target, Vec::load_f16, float_from_half)
                   : load_row(row, args->cols, target, Vec::load_bf16, float_from_bfloat);
    }
    args->finite[r] = finite;
  }
}

void squares(const SquaresArgs* args) {
  for (int64_t r = 0; r < args->rows; ++r) {
    const float* const x = args->x + r * args->x_stride;
    SquareSum sum;
    int64_t c = 0;
    for (; c + Vec::kLanes <= args->cols; c += Vec::kLanes) sum.add(Vec::load(x + c));
    double total = sum.total();
    for (; c < args->cols; ++c) total += static_cast<double>(x[c]) * static_cast<double>(x[c]);
    args->squares[r] = total;
  }
}

void scale(const ScaleArgs* args) {
  for (int64_t r = 0; r < args->rows; ++r) {
    float* const x = args->x + r * args->x_stride;
    const double factor = args->factors[r];
    int64_t c = 0;
    for (; c + Vec::kLanes <= args->cols; c += Vec::kLanes) Vec::scaled(Vec::load(x + c), factor).store(x + c);
    for (; c < args->cols; ++c) x[c] = static_cast<float>(static_cast<double>(x[c]) * factor);
  }
}

constexpr int64_t kPrefetchRows = 2 * kPanelWidth;

// Writes depth [begin, depth) of a panel of `rows` rows.
void pack_plain(const PackArgs& args, const float* x, int64_t rows, int64_t begin, float* out) {
  for (int64_t k = begin; k < args.depth; ++k) {
    if (rows == kPanelWidth) {
      for (int64_t c = 0; c < kPanelWidth; ++c) out[k * kPanelWidth + c] = x[c * args.x_stride + k];
    } else {
      for (int64_t c = 0; c < kPanelWidth; ++c) {
        out[k * kPanelWidth + c] = c < rows ? x[c * args.x_stride + k] : 0.0f;
      }
    }
  }
}

void pack(const PackArgs* args) {
  for (int64_t first = 0; first < args->rows; first += kPanelWidth) {
    const float* const x = args->x + first * args->x_stride;
    float* const out = args->panels + first * args->depth;
    const int64_t left = args->rows - first;
    int64_t k = 0;
    if constexpr (kTransposeSize > 0) {
      // Sixteen short streams are more than the hardware's prefetcher follows. Where rows lie close, ask for the panel
      // after the next, which may be past the last row of this call: a caller goes on there. A prefetch never faults.
      const bool close = args->x_stride >= args->depth && args->x_stride < 2 * args->depth;
      const char* const ahead = reinterpret_cast<const char*>(x) + kPrefetchRows * args->x_stride * 4;
      for (; left >= kPanelWidth && k + kTransposeSize <= args->depth; k += kTransposeSize) {
        for (int64_t line = k; close && line < k + kTransposeSize; ++line) __builtin_prefetch(ahead + line * 64, 0, 3);
        for (int64_t c = 0; c < kPanelWidth; c += kTransposeSize) {
          transpose_block(x + c * args->x_stride + k, args->x_stride, out + k * kPanelWidth + c, kPanelWidth);
        }
      }
    }
    pack_plain(*args, x, left < kPanelWidth ? left : kPanelWidth, k, out);
  }
}

int64_t filter(const FilterArgs* args) {
  const Vec threshold = Vec::splat(args->threshold);
  int64_t found = 0;
  int64_t i = 0;
  for (; i + Vec::kLanes <= args->count; i += Vec::kLanes) {
    for (uint32_t hits = Vec::greater(Vec::load(args->scores + i), threshold); hits != 0; hits &= hits - 1) {
      args->positions[found++] = static_cast<int32_t>(i) + __builtin_ctz(hits);
    }
  }
  for (; i < args->count; ++i) {
    if (args->scores[i] > args->threshold) args->positions[found++] = static_cast<int32_t>(i);
  }
  return found;
}

}  // namespace
}  // namespace fct
