// A layer on wgmma, scaled-down tiles and the shipped ones, on the fiber shim: against float64, and bytes bit for bit
// against plain loops. Whole and odd sizes, rows 0 to 129, fewer blocks than tiles, threads in random order.
#include <cstring>

#include "check.hpp"
#include "cuda/upgrade/layer_wgmma.hpp"
#include "layer_support.hpp"

using namespace fct::cuda;
using namespace fct::cuda::testing;
using fct::shim::launch;

namespace {

template <typename Element, typename Output, typename T>
void run(const LayerArgs& layer, int64_t most_blocks, uint32_t seed) {
  if (layer.rows == 0) return;  // as the launcher
  const WgmmaArgs args = wgmma_args<Element, Output, T>(layer);
  const auto counters = launch({.blocks = std::min(blocks_of<T>(layer), most_blocks),
                                .threads = T::kThreads,
                                .shared_bytes = T::kSharedBytes,
                                .seed = seed},
                               [&](unsigned char* shared) { layer_wgmma<Element, Output, T>(args, shared); });
  const int64_t steps = (layer.depth * static_cast<int64_t>(sizeof(Element)) + 127) / 128;
  CHECK(counters.wgmma == blocks_of<T>(layer) * steps * 4 * 8);  // each step in four parts, by eight warps
}

template <typename Element, typename Output, typename T>
void check(int64_t rows, int64_t depth, int64_t columns, bool relu, double bound, uint32_t seed) {
  Problem<Element, Output> problem(rows, depth, columns, relu, seed);
  run<Element, Output, T>(problem.args(), 1 + seed % 3, seed);
  const double error = problem.error();
  if (!(error <= bound)) {
    std::fprintf(stderr, "tile of %d columns, %lld rows, %lld -> %lld: error %.2e, allowed %.2e\n", T::kColumns,
                 static_cast<long long>(rows), static_cast<long long>(depth), static_cast<long long>(columns), error,
                 bound);
    std::exit(1);
  }
  for (int64_t r = 0; r < rows; ++r) CHECK(problem.status[r] == kRowOk);
}

// As of the other kernels: the sums are float32.
constexpr double kHalfBound = 4e-4, kBfloatBound = 3e-3, kFloatBound = 4e-7;

template <typename T>
void check_tile(uint32_t seed) {
  for (int64_t rows : {0, 1, 127, 128, 129}) {
    check<Half, Half, T>(rows, 72, 40, true, kHalfBound, seed++);
  }
  check<Half, float, T>(129, 130, T::kColumns + 9, false, kFloatBound, seed++);
  check<Bfloat, Bfloat, T>(63, 1, 1, true, kBfloatBound, seed++);
  check<Bfloat, float, T>(3, 7 * 64, 3 * T::kColumns - 5, true, kFloatBound, seed++);
  check<Half, Half, T>(300, 64 * T::kStages + 8, T::kColumns, true, kHalfBound, seed++);
}

// The shipped tiles, several tiles a block.
template <typename T>
void check_shipped_tile(uint32_t seed) {
  check<Half, Half, T>(140, 200, T::kColumns + 24, true, kHalfBound, seed);
  check<Bfloat, float, T>(65, 64 * (T::kStages + 1), T::kColumns - 8, false, kFloatBound, seed + 1);
}

// NaN passes ReLU; a value beyond the 16-bit range marks its row, and no other; a row that was bad stays as it was.
template <typename Element>
void check_values_that_are_not_finite() {
  using T = WgmmaTile<64, 2>;
  Problem<Element, Element> problem(140, 24, 72, true, 77);
  const auto set = [&](int64_t row, float value) {
    for (int64_t k = 0; k < 24; ++k) problem.x.data[row * problem.x.stride + k] = narrowed<Element>(value);
  };
  for (int64_t k = 0; k < 24; ++k) problem.weight.data[70 * problem.weight.stride + k] = narrowed<Element>(1.0f);
  set(1, NAN);
  set(74, std::is_same_v<Element, Half> ? 60000.0f : 3e38f);
  set(139, NAN);
  problem.status[139] = kRowNonfiniteInput;
  run<Element, Element, T>(problem.args(), 2, 5);
  for (int64_t c = 0; c < 72; ++c) CHECK(std::isnan(problem.y.at(1, c)) && std::isnan(problem.y.at(139, c)));
  CHECK(std::isinf(problem.y.at(74, 70)));
  for (int64_t r = 0; r < 139; ++r) CHECK(problem.status[r] == (r == 1 || r == 74 ? kRowOverflow : kRowOk));
  CHECK(problem.status[139] == kRowNonfiniteInput);
}

// One output beyond float16 is enough, wherever it lies.
void check_single_overflow() {
  for (int64_t column = 0; column < 64; column += 5) {
    Problem<Half, Half> problem(70, 8, 64, true, 55);
    problem.bias[column] = 1e6f;
    run<Half, Half, WgmmaTile<64, 2>>(problem.args(), 1, 1);
    for (int64_t r = 0; r < 70; ++r) CHECK(problem.status[r] == kRowOverflow);
  }
}

// Outputs written beside others of the same rows, as a branch does.
void check_columns_of_wider_rows() {
  Problem<Half, Half> problem(129, 40, 48, true, 9);
  Rows<Half> joined(129, 80);
  joined.poison();
  LayerArgs args = problem.args();
  args.y = joined.data.data() + 16;
  args.y_stride = joined.stride;
  run<Half, Half, WgmmaTile<64, 2>>(args, 1, 9);
  run<Half, Half, WgmmaTile<64, 2>>(problem.args(), 1, 9);
  for (int64_t r = 0; r < 129; ++r) {
    for (int64_t c = 0; c < 80; ++c) {
      const uint16_t got = joined.data[r * joined.stride + c].bits;
      CHECK(got == (c < 16 || c >= 64 ? 0xffff : problem.y.data[r * problem.y.stride + c - 16].bits));
    }
  }
}

// int8, by the words of fct_fast/kernels/int8.py.
template <typename Output, typename T>
void check_bytes(int64_t rows, int64_t depth, int64_t columns, bool relu, uint32_t seed) {
  const auto up = [](int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; };
  const int64_t stride = up(depth, 16), padded = up(columns, 16 / static_cast<int64_t>(sizeof(Output)));
  Guarded<uint8_t> x(rows * stride);
  Guarded<int8_t> weight(padded * stride);
  Guarded<float> bias(padded), scale(padded);
  Guarded<Output> y(rows * padded);
  std::memset(weight.data(), 0, static_cast<std::size_t>(padded * stride));
  std::memset(y.data(), 0xff, static_cast<std::size_t>(rows * padded) * sizeof(Output));
  std::mt19937 random(seed);
  for (int64_t i = 0; i < rows * stride; ++i) x[i] = static_cast<uint8_t>(i % stride < depth ? random() : 0);
  for (int64_t c = 0; c < padded; ++c) {
    for (int64_t k = 0; k < depth && c < columns; ++k) weight[c * stride + k] = static_cast<int8_t>(random());
    scale[c] = c < columns ? 1e-2f / std::sqrt(static_cast<float>(depth)) * (1 + static_cast<float>(c % 9) / 7) : 0.0f;
    bias[c] = c < columns ? static_cast<float>(random() % 200) - 80.3f : 0.0f;
  }
  LayerArgs args{.x = x.data(),
                 .x_stride = stride,
                 .weight = weight.data(),
                 .bias = bias.data(),
                 .y = y.data(),
                 .y_stride = padded,
                 .rows = rows,
                 .depth = static_cast<int32_t>(stride),
                 .columns = static_cast<int32_t>(padded),
                 .relu = relu,
                 .status = nullptr,
                 .scale = scale.data(),
                 .narrow = sizeof(Output) == 1};
  run<uint8_t, Output, T>(args, 1 + seed % 3, seed);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < padded; ++c) {
      int32_t sum = 0;
      for (int64_t k = 0; k < depth; ++k) sum += x[r * stride + k] * weight[c * stride + k];
      const float scaled = static_cast<float>(sum) * scale[c];
      const float value = scaled + bias[c];
      if constexpr (sizeof(Output) == 1) {
        CHECK(y[r * padded + c] == static_cast<Output>(std::nearbyint(std::fmin(std::fmax(value, 0.0f), 255.0f))));
      } else {
        CHECK(y[r * padded + c] == (relu && value < 0 ? 0.0f : value));
      }
    }
  }
}

void check_bytes_layers() {
  using T = WgmmaTile<128, 3>;
  for (int64_t rows : {0, 1, 127, 128, 129}) check_bytes<uint8_t, T>(rows, 72, 41, true, static_cast<uint32_t>(rows));
  check_bytes<uint8_t, T>(200, 128 * 4 + 9, 200, true, 3);
  check_bytes<float, T>(129, 130, 137, false, 4);
  check_bytes<float, T>(3, 1, 1, true, 5);
  check_bytes<uint8_t, WgmmaWideTile>(130, 200, 300, true, 6);
}

}  // namespace

int main() {
  check_tile<WgmmaTile<64, 2>>(100);
  check_tile<WgmmaTile<128, 3>>(200);
  check_shipped_tile<WgmmaWideTile>(300);
  check_shipped_tile<WgmmaNarrowTile>(400);
  check_values_that_are_not_finite<Half>();
  check_values_that_are_not_finite<Bfloat>();
  check_single_overflow();
  check_columns_of_wider_rows();
  check_bytes_layers();
  return 0;
}
