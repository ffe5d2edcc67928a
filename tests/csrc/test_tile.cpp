// The tile kernel of every level: right against float64, inside its buffers, and with bits that do not depend on the
// cut.
#include <cstring>

#include "check.hpp"
#include "core/dispatch.hpp"
#include "core/rows.hpp"

using namespace fct;
using fct::testing::fill_normal;
using fct::testing::Guarded;

namespace {

struct Case {
  int64_t rows;
  int64_t depth;
  int64_t columns;
};

void check_case(const KernelTable& kernels, const Case& c, Product product, uint32_t seed) {
  const int64_t panel_count = panels_of(c.columns);
  const int64_t width = panel_count * kPanelWidth;
  Guarded<float> x(c.rows * c.depth), w(c.columns * c.depth), panels(width * c.depth), bias(width), y(c.rows * width);
  fill_normal(x.data(), c.rows * c.depth, seed);
  fill_normal(w.data(), c.columns * c.depth, seed + 1);
  fill_normal(bias.data(), width, seed + 2);
  const PackArgs pack{.x = w.data(), .x_stride = c.depth, .rows = c.columns, .depth = c.depth, .panels = panels.data()};
  kernels.pack(&pack);
  TileArgs args{.x = x.data(),
                .x_stride = c.depth,
                .rows = c.rows,
                .panels = panels.data(),
                .panel_count = panel_count,
                .depth = c.depth,
                .bias = bias.data(),
                .relu = product == Product::dot,
                .product = product,
                .y = y.data(),
                .y_stride = width};
  kernels.tile(&args);
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t j = 0; j < c.columns; ++j) {
      double want = bias[j], magnitude = std::fabs(want);
      for (int64_t k = 0; k < c.depth; ++k) {
        const double a = x[r * c.depth + k], b = w[j * c.depth + k];
        const double term = product == Product::dot ? a * b : -(a - b) * (a - b);
        want += term;
        magnitude += std::fabs(term);
      }
      if (args.relu && want < 0) want = 0;
      CHECK(std::fabs(y[r * width + j] - want) <= 2e-6 * magnitude);
    }
  }
  // One row at a time gives the same bits.
  Guarded<float> alone(width);
  for (int64_t r = 0; r < c.rows; ++r) {
    TileArgs one = args;
    one.x = x.data() + r * c.depth;
    one.rows = 1;
    one.y = alone.data();
    kernels.tile(&one);
    CHECK(std::memcmp(alone.data(), y.data() + r * width, static_cast<std::size_t>(width) * 4) == 0);
  }
}

void nan_passes_relu(const KernelTable& kernels) {
  const float x[1] = {NAN};
  float panels[16], y[16];
  for (float& p : panels) p = 1.0f;
  TileArgs args{.x = x,
                .x_stride = 1,
                .rows = 1,
                .panels = panels,
                .panel_count = 1,
                .depth = 1,
                .bias = nullptr,
                .relu = true,
                .product = Product::dot,
                .y = y,
                .y_stride = 16};
  kernels.tile(&args);
  CHECK(std::isnan(y[0]) && std::isnan(y[15]));
}

void filter_keeps_order(const KernelTable& kernels) {
  for (int64_t count : {0, 1, 7, 16, 100, 257}) {
    Guarded<float> scores(count);
    Guarded<int32_t> positions(count);
    fill_normal(scores.data(), count, 5);
    if (count > 3) scores[3] = NAN;
    const FilterArgs args{.scores = scores.data(), .count = count, .threshold = 0.25f, .positions = positions.data()};
    const int64_t found = kernels.filter(&args);
    int64_t at = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (scores[i] > 0.25f) CHECK(positions[at++] == i);
    }
    CHECK(at == found);
  }
}

void load_widens_and_judges(const KernelTable& kernels) {
  for (int64_t cols : {1, 3, 16, 37}) {
    Guarded<uint16_t> source(2 * cols);
    Guarded<float> target(2 * cols);
    Guarded<unsigned char> finite(2);
    for (int64_t bad = -1; bad < cols; ++bad) {
      for (int64_t i = 0; i < 2 * cols; ++i) source[i] = static_cast<uint16_t>(0x3c00 + i);
      if (bad >= 0) source[cols + bad] = 0x7c00;  // +inf as float16
      const LoadArgs args{.source = reinterpret_cast<unsigned char*>(source.data()),
                          .dtype = static_cast<int32_t>(Dtype::f16),
                          .source_stride = cols,
                          .rows = 2,
                          .cols = cols,
                          .target = target.data(),
                          .target_stride = cols,
                          .finite = finite.data()};
      kernels.load(&args);
      CHECK(finite[0] == 1 && finite[1] == (bad < 0));
      CHECK(target[0] == 1.0f);
    }
  }
}

void load_widens_exactly(const KernelTable& kernels) {
  for (Dtype dtype : {Dtype::f16, Dtype::bf16}) {
    constexpr int64_t kCols = 37;
    Guarded<uint16_t> source(kCols);
    Guarded<float> target(kCols);
    unsigned char finite;
    // Normal, subnormal and largest values of both signs, other ones in each lane.
    for (int64_t i = 0; i < kCols; ++i) {
      source[i] = static_cast<uint16_t>((i % 2 ? 0x8000 : 0) | (i * 0x6f1 + (i < 9 ? 0 : 7)) % 0x7bff);
    }
    const LoadArgs args{.source = reinterpret_cast<unsigned char*>(source.data()),
                        .dtype = static_cast<int32_t>(dtype),
                        .source_stride = kCols,
                        .rows = 1,
                        .cols = kCols,
                        .target = target.data(),
                        .target_stride = kCols,
                        .finite = &finite};
    kernels.load(&args);
    CHECK(finite == 1);
    for (int64_t i = 0; i < kCols; ++i) {
      const bool half = dtype == Dtype::f16;
      const int exponent = half ? source[i] >> 10 & 31 : source[i] >> 7 & 255, bias = half ? 24 : 133;
      const int fraction = half ? source[i] & 1023 : source[i] & 127, one = half ? 1024 : 128;
      const double magnitude =
          exponent == 0 ? std::ldexp(fraction, -bias) : std::ldexp(one + fraction, exponent - 1 - bias);
      CHECK(target[i] == (source[i] & 0x8000 ? -magnitude : magnitude));
    }
  }
}

// Against a plain loop: rows of any stride, tails in both directions, nothing read or written outside.
void pack_turns_rows(const KernelTable& kernels) {
  for (int64_t rows : {1, 15, 16, 17, 32, 50}) {
    for (int64_t depth : {1, 7, 8, 9, 16, 37}) {
      for (int64_t stride : {depth, depth + 3}) {
        const int64_t floats = panels_of(rows) * kPanelWidth * depth;
        Guarded<float> x((rows - 1) * stride + depth), panels(floats);
        fill_normal(x.data(), (rows - 1) * stride + depth, 7);
        const PackArgs args{.x = x.data(), .x_stride = stride, .rows = rows, .depth = depth, .panels = panels.data()};
        kernels.pack(&args);
        for (int64_t i = 0; i < floats; ++i) {
          const int64_t row = i / (kPanelWidth * depth) * kPanelWidth + i % kPanelWidth;
          const int64_t k = i / kPanelWidth % depth;
          CHECK(panels[i] == (row < rows ? x[row * stride + k] : 0.0f));
        }
      }
    }
  }
}

void scale_rounds_once(const KernelTable& kernels) {
  for (int64_t cols : {1, 4, 8, 19, 33}) {
    Guarded<float> x(2 * cols);
    fill_normal(x.data(), 2 * cols, 9);
    const std::vector<float> before(x.data(), x.data() + 2 * cols);
    const double factors[] = {1.0 / 3.0, 1e-30};
    const ScaleArgs args{.x = x.data(), .x_stride = cols, .rows = 2, .cols = cols, .factors = factors};
    kernels.scale(&args);
    for (int64_t i = 0; i < 2 * cols; ++i) {
      CHECK(x[i] == static_cast<float>(static_cast<double>(before[static_cast<std::size_t>(i)]) * factors[i / cols]));
    }
  }
}

}  // namespace

int main() {
  for (CpuLevel level : usable_levels()) {
    const KernelTable& kernels = kernels_of(level);
    uint32_t seed = 0;
    for (int64_t rows : {1, 2, 5, 6, 7, 13}) {
      for (int64_t depth : {1, 17, 256, 257, 700}) {
        for (int64_t columns : {1, 16, 17, 64, 65, 100}) {
          check_case(kernels, {rows, depth, columns}, Product::dot, seed += 3);
          check_case(kernels, {rows, depth, columns}, Product::minus_distance, seed += 3);
        }
      }
    }
    nan_passes_relu(kernels);
    filter_keeps_order(kernels);
    load_widens_and_judges(kernels);
    load_widens_exactly(kernels);
    pack_turns_rows(kernels);
    scale_rounds_once(kernels);
  }
  return 0;
}
