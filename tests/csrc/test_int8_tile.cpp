// The int8 kernels of every level and of AVX-512 VNNI where the CPU has it, against plain loops: bit for bit, at the
// edges of saturation, inside their buffers, and with bits that do not depend on the cut.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "check.hpp"
#include "core/dispatch.hpp"
#include "core/rows.hpp"

using namespace fct;
using fct::testing::Guarded;

namespace {

// The rule of cpu/kernel_table.hpp, by the C library's rounding.
uint8_t narrowed(float y) {
  if (!(y > 0)) return 0;
  return static_cast<uint8_t>(std::nearbyint(std::min(y, 255.0f)));
}

enum class Fill { random, largest, alternating };

struct Case {
  int64_t rows;
  int64_t depth;
  int64_t columns;
  Fill fill;
};

void check_case(const Int8Table& kernels, const Case& c, uint32_t seed) {
  const int64_t quads = (c.depth + 3) / 4, panel_count = panels_of(c.columns), width = panel_count * kPanelWidth;
  Guarded<uint8_t> x(c.rows * quads * 4), narrow(c.rows * width);
  Guarded<int8_t> panels(width * quads * 4);
  Guarded<float> scale(width), bias(width), wide(c.rows * width);
  std::mt19937 generator(seed);
  const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); };
  std::vector<int> w(static_cast<std::size_t>(c.columns * c.depth));
  for (int64_t i = 0; i < c.rows * quads * 4; ++i)
    x[i] = static_cast<uint8_t>(c.fill == Fill::random ? draw(0, 255) : 255);
  for (int64_t o = 0; o < c.columns; ++o) {
    for (int64_t k = 0; k < c.depth; ++k) {
      const int sign = c.fill == Fill::alternating && o % 2 ? -127 : 127;
      const int value = c.fill == Fill::random ? draw(-127, 127) : sign;
      w[o * c.depth + k] = value;
      panels[((o / 16 * quads + k / 4) * 16 + o % 16) * 4 + k % 4] = static_cast<int8_t>(value);
    }
    scale[o] = static_cast<float>(draw(1, 1000)) / (1e4f * std::sqrt(static_cast<float>(c.depth)));
    bias[o] = static_cast<float>(draw(-100, 300));
  }
  Int8TileArgs args{.x = x.data(),
                    .x_stride = quads * 4,
                    .rows = c.rows,
                    .panels = panels.data(),
                    .panel_count = panel_count,
                    .quads = quads,
                    .scale = scale.data(),
                    .bias = bias.data(),
                    .relu = false,
                    .y = wide.data(),
                    .y_stride = width,
                    .narrow = false};
  kernels.tile(&args);
  args.y = narrow.data();
  args.narrow = args.relu = true;
  kernels.tile(&args);
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t o = 0; o < c.columns; ++o) {
      int32_t sum = 0;
      for (int64_t k = 0; k < c.depth; ++k) sum += x[r * quads * 4 + k] * w[o * c.depth + k];
      const volatile float product = static_cast<float>(sum) * scale[o];  // volatile: never fused
      const float y = product + bias[o];
      CHECK(std::memcmp(&y, &wide[r * width + o], 4) == 0);
      CHECK(narrow[r * width + o] == narrowed(y));
    }
    for (int64_t o = c.columns; o < width; ++o) CHECK(wide[r * width + o] == 0.0f && narrow[r * width + o] == 0);
  }
  // One row at a time gives the same bits; ReLU of a float32 output is as elsewhere.
  Guarded<float> alone(width);
  args.narrow = false;
  args.rows = 1;
  args.y = alone.data();
  for (int64_t r = 0; r < c.rows; ++r) {
    args.x = x.data() + r * quads * 4;
    kernels.tile(&args);
    for (int64_t o = 0; o < width; ++o) CHECK(alone[o] == std::max(wide[r * width + o], 0.0f));
  }
}

void narrow_rounds_and_clamps(const Int8Table& kernels) {
  const float below_half = std::nextafter(0.5f, 0.0f), below_top = std::nextafter(254.5f, 0.0f);
  const float values[] = {0.0f,   -0.0f, 0.5f,   below_half, 1.5f,      2.5f,  254.5f, below_top, 255.0f,
                          255.5f, 256.f, 1e30f,  INFINITY,   -INFINITY, NAN,   -NAN,   -1e-30f,   1e-45f,
                          3e9f,   -3e9f, 127.5f, 128.5f,     0.49f,     -0.5f, 253.5f, -254.6f,   300.0f};
  const int64_t count = std::size(values), panels = panels_of(count), width = panels * kPanelWidth;
  Guarded<float> x(2 * width);
  Guarded<uint8_t> y(2 * width);
  for (int64_t i = 0; i < 2 * width; ++i) x[i] = values[i % count];
  const Int8NarrowArgs args{
      .x = x.data(), .x_stride = width, .rows = 2, .panel_count = panels, .y = y.data(), .y_stride = width};
  kernels.narrow(&args);
  for (int64_t i = 0; i < 2 * width; ++i) CHECK(y[i] == narrowed(x[i]));
  CHECK(y[2] == 0 && y[4] == 2 && y[5] == 2 && y[6] == 254 && y[12] == 255 && y[13] == 0 && y[14] == 0);
}

void check_kernels(const Int8Table& kernels) {
  uint32_t seed = 0;
  for (int64_t rows : {1, 2, 5, 6, 7, 13, 17, 33, 50}) {
    for (int64_t depth : {1, 3, 17, 256, 257}) {
      for (int64_t columns : {1, 16, 17, 64, 65, 100}) {
        for (Fill fill : {Fill::random, Fill::alternating}) check_case(kernels, {rows, depth, columns, fill}, ++seed);
      }
    }
  }
  // The deepest layer at the largest values: int32 just holds the sum, and a 16-bit sum would have saturated long ago.
  check_case(kernels, {3, 66311, 17, Fill::largest}, 1);
  check_case(kernels, {3, 66311, 17, Fill::alternating}, 2);
  narrow_rounds_and_clamps(kernels);
}

}  // namespace

int main() {
  for (CpuLevel level : usable_levels()) check_kernels(int8_kernels_of(level));
#if defined(__x86_64__)
  // Off by default, but held to the same wherever it can run.
  if (has_vnni()) check_kernels(kAvx512VnniInt8Kernels);
#endif
  return 0;
}
