// What the tests of single kernels share: layers with odd sizes, poisoned buffers that end before unreadable pages, a
// float64 oracle.
#pragma once

#include <cstring>
#include <vector>

#include "check.hpp"
#include "cuda/simt/numbers.hpp"
#include "cuda/upgrade/args.hpp"

namespace fct::cuda::testing {

using fct::testing::Guarded;

// `rows` x `columns` in memory with whole 16-byte chunks a row; padding columns are zeros, as the kernels keep them.
template <typename T>
struct Rows {
  static constexpr int64_t kUnit = 16 / static_cast<int64_t>(sizeof(T));

  Rows(int64_t row_count, int64_t column_count)
      : rows(row_count),
        columns(column_count),
        stride((column_count + kUnit - 1) / kUnit * kUnit),
        data(rows * stride) {
    std::memset(data.data(), 0, static_cast<std::size_t>(rows * stride) * sizeof(T));
  }
  void fill(uint32_t seed, float scale) {
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    fct::testing::fill_normal(values.data(), rows * columns, seed);
    for (int64_t i = 0; i < rows * columns; ++i) {
      data[i / columns * stride + i % columns] = narrowed<T>(values[static_cast<std::size_t>(i)] * scale);
    }
  }
  void poison() { std::memset(data.data(), 0xff, static_cast<std::size_t>(rows * stride) * sizeof(T)); }
  double at(int64_t row, int64_t column) const { return widen(data[row * stride + column]); }

  int64_t rows, columns, stride;
  Guarded<T> data;
};

// One layer's problem and its float64 answer.
template <typename Element, typename Output>
struct Problem {
  Problem(int64_t rows, int64_t depth, int64_t columns, bool with_relu, uint32_t seed)
      : x(rows, depth),
        weight(up(columns), depth),
        y(rows, up(columns)),
        bias(up(columns)),
        relu(with_relu),
        true_columns(columns),
        status(rows) {
    x.fill(seed, 1.0f);
    weight.fill(seed + 1, 1.0f / std::sqrt(static_cast<float>(depth)));
    for (int64_t i = columns; i < up(columns); ++i)
      std::memset(&weight.data[i * weight.stride], 0, weight.stride * sizeof(Element));
    std::memset(bias.data(), 0, static_cast<std::size_t>(up(columns)) * 4);
    fct::testing::fill_normal(bias.data(), columns, seed + 2);
    y.poison();
    std::memset(status.data(), 0, static_cast<std::size_t>(rows));
  }
  static int64_t up(int64_t columns) { return (columns + 7) / 8 * 8; }

  LayerArgs args() {
    return {.x = x.data.data(),
            .x_stride = x.stride,
            .weight = weight.data.data(),
            .bias = bias.data(),
            .y = y.data.data(),
            .y_stride = y.stride,
            .rows = x.rows,
            .depth = static_cast<int32_t>(x.stride),
            .columns = static_cast<int32_t>(up(true_columns)),
            .relu = relu,
            .status = sizeof(Output) == 2 ? status.data() : nullptr};
  }

  double oracle(int64_t row, int64_t column) const {
    double sum = bias[column];
    for (int64_t k = 0; k < x.columns; ++k) sum += x.at(row, k) * weight.at(column, k);
    return relu && sum < 0 ? 0 : sum;
  }

  // Relative to the norm of all outputs.
  double error() const {
    double wrong = 0, all = 1e-30;
    for (int64_t r = 0; r < x.rows; ++r) {
      for (int64_t c = 0; c < true_columns; ++c) {
        const double want = oracle(r, c);
        wrong += (y.at(r, c) - want) * (y.at(r, c) - want);
        all += want * want;
      }
      for (int64_t c = true_columns; c < up(true_columns); ++c) CHECK(y.at(r, c) == 0);
    }
    return std::sqrt(wrong / all);
  }

  Rows<Element> x, weight;
  Rows<Output> y;
  Guarded<float> bias;
  bool relu;
  int64_t true_columns;
  Guarded<unsigned char> status;
};

template <typename T>
int64_t blocks_of(const LayerArgs& args) {
  return (args.rows + T::kRows - 1) / T::kRows * ((args.columns + T::kColumns - 1) / T::kColumns);
}

}  // namespace fct::cuda::testing
