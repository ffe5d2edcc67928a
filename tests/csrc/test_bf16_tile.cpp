// The bfloat16 kernels of every level that has them: right against float64, inside their buffers, and with bits that do
// not depend on the cut. Emulated, they must also give the bits of the order that each level states, as plain loops.
#include <algorithm>
#include <cstring>

#include "check.hpp"
#include "core/dispatch.hpp"
#include "core/half.hpp"
#include "core/rows.hpp"

using namespace fct;
using fct::testing::fill_normal;
using fct::testing::Guarded;

namespace {

#if defined(FCT_EMULATED)
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

struct Case {
  int64_t rows;
  int64_t depth;
  int64_t columns;
};

// Rows and panels of normal values, exact in bfloat16, each buffer before an unreadable page.
struct Problem {
  Problem(const Case& c, uint32_t seed)
      : size(c),
        pairs((c.depth + 1) / 2),
        panel_count(panels_of(c.columns)),
        width(panel_count * kPanelWidth),
        x(c.rows * 2 * pairs),
        panels(width * 2 * pairs),
        bias(width) {
    std::vector<float> values(static_cast<std::size_t>(c.rows * c.depth + c.columns * c.depth));
    fill_normal(values.data(), static_cast<int64_t>(values.size()), seed);
    fill_normal(bias.data(), width, seed + 1);
    const float* next = values.data();
    for (int64_t r = 0; r < c.rows; ++r) {
      for (int64_t k = 0; k < c.depth; ++k) x[r * 2 * pairs + k] = bfloat_from_float(*next++);
    }
    for (int64_t o = 0; o < c.columns; ++o) {
      for (int64_t k = 0; k < c.depth; ++k) weight(o, k) = bfloat_from_float(*next++);
    }
  }

  uint16_t& weight(int64_t o, int64_t k) const { return panels[((o / 16 * pairs + k / 2) * 16 + o % 16) * 2 + k % 2]; }
  float left(int64_t r, int64_t k) const { return float_from_bfloat(x[r * 2 * pairs + k]); }
  float right(int64_t o, int64_t k) const { return float_from_bfloat(weight(o, k)); }

  Bf16TileArgs args(void* y, bool narrow, bool relu) const {
    return {.x = x.data(),
            .x_stride = 2 * pairs,
            .rows = size.rows,
            .panels = panels.data(),
            .panel_count = panel_count,
            .pairs = pairs,
            .bias = bias.data(),
            .relu = relu,
            .y = y,
            .y_stride = width,
            .narrow = narrow};
  }

  Case size;
  int64_t pairs, panel_count, width;
  Guarded<uint16_t> x, panels;
  Guarded<float> bias;
};

// AVX-512 BF16: one chain a column, in each pair the upper value first.
float in_order_of_avx512(const Problem& p, int64_t r, int64_t o) {
  float sum = 0;
  for (int64_t k = 0; k < 2 * p.pairs; k += 2) {
    sum = std::fma(p.left(r, k + 1), p.right(o, k + 1), sum);
    sum = std::fma(p.left(r, k), p.right(o, k), sum);
  }
  return sum;
}

// AMX: 32 depth steps at a time, even and odd ones in chains of their own from zero.
float in_order_of_amx(const Problem& p, int64_t r, int64_t o) {
  float sum = 0;
  for (int64_t begin = 0; begin < 2 * p.pairs; begin += 32) {
    float even = 0, odd = 0;
    for (int64_t k = begin; k < std::min(begin + 32, 2 * p.pairs); k += 2) {
      even = std::fma(p.left(r, k), p.right(o, k), even);
      odd = std::fma(p.left(r, k + 1), p.right(o, k + 1), odd);
    }
    sum += even + odd;
  }
  return sum;
}

void check_case(CpuLevel level, const Case& c, uint32_t seed) {
  const Bf16Table& kernels = *bf16_kernels_of(level);
  const Problem p(c, seed);
  Guarded<float> wide(c.rows * p.width), rectified(c.rows * p.width);
  Guarded<uint16_t> narrow(c.rows * p.width);
  Bf16TileArgs args = p.args(wide.data(), false, false);
  kernels.tile(&args);
  args = p.args(rectified.data(), false, true);
  kernels.tile(&args);
  args = p.args(narrow.data(), true, true);
  kernels.tile(&args);
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t o = 0; o < c.columns; ++o) {
      const float y = wide[r * p.width + o];
      double want = p.bias[o], magnitude = std::fabs(want);
      for (int64_t k = 0; k < c.depth; ++k) {
        const double term = static_cast<double>(p.left(r, k)) * p.right(o, k);
        want += term;
        magnitude += std::fabs(term);
      }
      CHECK(std::fabs(y - want) <= 5e-6 * magnitude);
      CHECK(rectified[r * p.width + o] == std::max(y, 0.0f));
      CHECK(narrow[r * p.width + o] == bfloat_from_float(std::max(y, 0.0f)));
      if (kEmulated) {
        const float sum = level == CpuLevel::amx ? in_order_of_amx(p, r, o) : in_order_of_avx512(p, r, o);
        CHECK(y == sum + p.bias[o]);
      }
    }
    for (int64_t o = c.columns; o < p.width; ++o) CHECK(wide[r * p.width + o] == p.bias[o]);
  }
  // One row at a time gives the same bits.
  Guarded<float> alone(p.width);
  args = p.args(alone.data(), false, false);
  args.rows = 1;
  for (int64_t r = 0; r < c.rows; ++r) {
    args.x = p.x.data() + r * 2 * p.pairs;
    kernels.tile(&args);
    CHECK(std::memcmp(alone.data(), wide.data() + r * p.width, static_cast<std::size_t>(p.width) * 4) == 0);
  }
}

// NaN and Inf stay where they are: not in another row, not lost in padding, and NaN passes through ReLU.
void bad_values_stay_in_their_row(CpuLevel level) {
  for (int64_t depth : {1, 33, 64}) {
    const Problem p({3, depth, 20}, 1);
    p.x[1 * 2 * p.pairs + depth - 1] = 0x7fc0;  // NaN
    p.x[2 * 2 * p.pairs + depth - 1] = 0x7f80;  // Inf
    Guarded<float> y(3 * p.width);
    const Bf16TileArgs args = p.args(y.data(), false, true);
    bf16_kernels_of(level)->tile(&args);
    for (int64_t o = 0; o < 20; ++o) {
      CHECK(std::isfinite(y[o]) && std::isnan(y[p.width + o]));
      CHECK(y[2 * p.width + o] == (p.right(o, depth - 1) > 0 ? INFINITY : 0.0f));
    }
  }
}

void narrow_rounds_and_pads(CpuLevel level) {
  for (int64_t cols : {1, 15, 16, 17, 31, 32, 50}) {
    const int64_t padded = cols + 1;
    Guarded<float> x(2 * cols);
    Guarded<uint16_t> y(padded + cols + 5);  // the last row may end before its stride does, but not before its padding
    fill_normal(x.data(), 2 * cols, 3);
    x[0] = __builtin_bit_cast(float, 0x3f808000u);                // a half: to even, down
    if (cols > 1) x[1] = __builtin_bit_cast(float, 0x3f818000u);  // and up
    if (cols > 2) x[2] = -NAN;
    if (cols > 3) x[3] = INFINITY;
    const Bf16NarrowArgs args{.x = x.data(),
                              .x_stride = cols,
                              .rows = 2,
                              .cols = cols,
                              .padded_cols = padded,
                              .y = y.data(),
                              .y_stride = cols + 5};
    for (int64_t i = 0; i < cols + 5; ++i) y[i] = 0xabcd;
    bf16_kernels_of(level)->narrow(&args);
    for (int64_t r = 0; r < 2; ++r) {
      for (int64_t c = 0; c < cols; ++c) CHECK(y[r * (cols + 5) + c] == bfloat_from_float(x[r * cols + c]));
      CHECK(y[r * (cols + 5) + cols] == 0);
    }
    for (int64_t c = padded; c < cols + 5; ++c) CHECK(y[c] == 0xabcd);
    CHECK(y[0] == 0x3f80 && (cols < 2 || y[1] == 0x3f82));
  }
}

}  // namespace

int main() {
  for (CpuLevel level : usable_levels()) {
    if (bf16_kernels_of(level) == nullptr) continue;
    uint32_t seed = 0;
    for (int64_t rows : {1, 2, 5, 6, 7, 13, 16, 17, 31, 32, 33, 50}) {
      for (int64_t depth : {1, 17, 32, 63, 128, 257}) {
        for (int64_t columns : {1, 16, 17, 32, 65, 100}) check_case(level, {rows, depth, columns}, seed += 2);
      }
    }
    check_case(level, {35, 700, 40}, 1);
    bad_values_stay_in_their_row(level);
    narrow_rounds_and_pads(level);
  }
  return 0;
}
