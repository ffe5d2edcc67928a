// One layer, every tile and precision, on the fiber shim against float64: whole and odd sizes, rows 0 to 129.
#include "cuda/upgrade/layer_ffma.hpp"
#include "cuda/upgrade/layer_mma.hpp"
#include "layer_support.hpp"

using namespace fct::cuda;
using namespace fct::cuda::testing;
using fct::shim::Counters;
using fct::shim::launch;

namespace {

template <typename Element, typename Output, typename T>
Counters run(const LayerArgs& args, uint32_t seed) {
  return launch({.blocks = blocks_of<T>(args),
                 .threads = T::kThreads,
                 .shared_bytes = T::template kSharedBytes<Output>,
                 .seed = seed},
                [&](unsigned char* shared) {
                  if constexpr (sizeof(Element) == 2) {
                    layer_mma<Element, Output, T>(args, shared);
                  } else {
                    layer_ffma<T>(args, shared);
                  }
                });
}

template <typename Element, typename Output, typename T>
void check(int64_t rows, int64_t depth, int64_t columns, bool relu, double bound, uint32_t seed) {
  Problem<Element, Output> problem(rows, depth, columns, relu, seed);
  const Counters counters = run<Element, Output, T>(problem.args(), seed);
  const double error = problem.error();
  if (!(error <= bound)) {
    std::fprintf(stderr, "tile %d x %d, %lld rows, %lld -> %lld: error %.2e, allowed %.2e\n", T::kRows, T::kColumns,
                 static_cast<long long>(rows), static_cast<long long>(depth), static_cast<long long>(columns), error,
                 bound);
    std::exit(1);
  }
  for (int64_t r = 0; r < rows; ++r) CHECK(problem.status[r] == kRowOk);
  CHECK(counters.ldmatrix_conflicts == 0);
}

// Bounds: the sums are float32, so what is left is the rounding of the output.
constexpr double kHalfBound = 4e-4, kBfloatBound = 3e-3, kFloatBound = 4e-7;

template <typename T>
void check_mma_tile(uint32_t seed) {
  for (int64_t rows : {0, 1, 127, 128, 129}) {
    check<Half, Half, T>(rows, 72, 40, true, kHalfBound, seed++);
  }
  check<Half, float, T>(T::kRows + 1, 130, T::kColumns + 9, false, kFloatBound, seed++);
  check<Bfloat, Bfloat, T>(T::kRows - 1, 1, 1, true, kBfloatBound, seed++);
  check<Bfloat, float, T>(3, 7 * 64, 3 * T::kColumns - 5, true, kFloatBound, seed++);
  check<Half, Half, T>(2, 64 * T::kStages + 8, T::kColumns, true, kHalfBound, seed++);
}

template <typename T>
void check_fp32_tile(uint32_t seed) {
  for (int64_t rows : {0, 1, 127, 128, 129}) check<float, float, T>(rows, 37, 41, true, kFloatBound, seed++);
  check<float, float, T>(T::kRows + 1, 129, T::kColumns + 3, false, kFloatBound, seed++);
  check<float, float, T>(5, 32 * T::kStages + 1, 2 * T::kColumns - 1, true, kFloatBound, seed++);
}

// Rows with NaN stay NaN through ReLU; a value beyond float16 marks its row, and no other; a row that was found bad
// before keeps its status.
template <typename Element, typename T>
void check_values_that_are_not_finite() {
  Problem<Element, Element> problem(5, 24, 16, true, 77);
  const auto set = [&](int64_t row, float value) {
    for (int64_t k = 0; k < 24; ++k) problem.x.data[row * problem.x.stride + k] = narrowed<Element>(value);
  };
  for (int64_t k = 0; k < 24; ++k) problem.weight.data[3 * problem.weight.stride + k] = narrowed<Element>(1.0f);
  set(1, NAN);
  set(2, sizeof(Element) == 2 ? (std::is_same_v<Element, Half> ? 60000.0f : 3e38f) : 3e38f);
  problem.x.data[3 * problem.x.stride] = narrowed<Element>(NAN);
  problem.status[3] = kRowNonfiniteInput;
  run<Element, Element, T>(problem.args(), 5);
  for (int64_t c = 0; c < 16; ++c) CHECK(std::isnan(problem.y.at(1, c)) && std::isnan(problem.y.at(3, c)));
  CHECK(std::isinf(problem.y.at(2, 3)));
  const unsigned char flagged = sizeof(Element) == 2 ? kRowOverflow : kRowOk;
  CHECK(problem.status[0] == kRowOk && problem.status[1] == flagged && problem.status[2] == flagged &&
        problem.status[3] == kRowNonfiniteInput && problem.status[4] == kRowOk);
}

// One output beyond float16 is enough, wherever it lies in its 16 bytes.
void check_single_overflow() {
  for (int64_t column = 0; column < 16; ++column) {
    Problem<Half, Half> problem(3, 8, 16, true, 55);
    problem.bias[column] = 1e6f;
    run<Half, Half, SmallTile>(problem.args(), 1);
    for (int64_t r = 0; r < 3; ++r) CHECK(problem.status[r] == kRowOverflow);
  }
}

// All tiles but the small one add each output's products in one order, so a row's bits do not depend on the choice.
template <typename Element, typename First, typename... Others>
void check_same_bits() {
  const auto outputs = [](auto tile) {
    using T = decltype(tile);
    Problem<Element, float> problem(40, 200, 72, true, 33);
    run<Element, float, T>(problem.args(), 6);
    return std::vector<float>(problem.y.data.data(), problem.y.data.data() + problem.y.rows * problem.y.stride);
  };
  const std::vector<float> first = outputs(First{});
  (..., [&] { CHECK(std::memcmp(first.data(), outputs(Others{}).data(), first.size() * 4) == 0); }());
}

// The widest layer of the default h keeps the float32 contract with room: sums are cut along the depth.
void check_fp32_depth() {
  check<float, float, Fp32SmallTile>(16, 2048, 96, true, 2e-7, 91);
  check<float, float, Fp32SmallTile>(16, 4096, 32, false, 2e-7, 92);
}

}  // namespace

int main() {
  check_mma_tile<WideTile>(100);
  check_mma_tile<SquareTile>(200);
  check_mma_tile<NarrowTile>(300);
  check_mma_tile<SmallTile>(400);
  check_fp32_tile<Fp32SquareTile>(500);
  check_fp32_tile<Fp32NarrowTile>(600);
  check_fp32_tile<Fp32SmallTile>(700);
  check_values_that_are_not_finite<Half, NarrowTile>();
  check_values_that_are_not_finite<Bfloat, SmallTile>();
  check_values_that_are_not_finite<float, Fp32SmallTile>();
  check_single_overflow();
  check_same_bits<Half, WideTile, SquareTile, NarrowTile>();
  check_same_bits<float, Fp32SquareTile, Fp32NarrowTile, Fp32SmallTile>();
  check_fp32_depth();
  return 0;
}
