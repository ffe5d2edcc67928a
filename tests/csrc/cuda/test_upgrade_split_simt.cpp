// One layer whose depth is split among blocks, on the fiber shim: against float64, whatever order blocks end in;
// float32 bit for bit as one block would.
#include "cuda/upgrade/layer_ffma.hpp"
#include "cuda/upgrade/layer_mma.hpp"
#include "cuda/upgrade/tile_choice.hpp"
#include "layer_support.hpp"

using namespace fct;
using namespace fct::cuda;
using namespace fct::cuda::testing;
using fct::testing::Guarded;

namespace {

// A layer's launch with the scratch that the plan would set aside.
template <typename Element, typename T>
struct Split {
  Split(const LayerArgs& layer, int32_t splits) : args(layer), parts(floats(splits)), arrivals(tiles()) {
    args.splits = splits;
    args.parts = parts.data();
    args.arrivals = arrivals.data();
    std::memset(parts.data(), 0xff, static_cast<std::size_t>(floats(splits)) * 4);
    std::memset(arrivals.data(), 0, static_cast<std::size_t>(tiles()) * 4);
  }
  int64_t tiles() const { return blocks_of<T>(args); }
  int64_t floats(int32_t splits) const {
    const int64_t steps = (args.depth * static_cast<int64_t>(sizeof(Element)) + kStepBytes - 1) / kStepBytes;
    const int64_t of_an_output = sizeof(Element) == 4 ? (steps + 1) / 2 : splits;
    return tiles() * of_an_output * T::kRows * T::kColumns;
  }
  template <typename Output>
  void run(uint32_t seed) {
    fct::shim::launch({.blocks = tiles() * args.splits,
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
    for (int64_t t = 0; t < tiles(); ++t) CHECK(arrivals[t] == 0);  // ready for the next layer
  }

  LayerArgs args;
  Guarded<float> parts;
  Guarded<uint32_t> arrivals;
};

template <typename Element, typename Output>
std::vector<unsigned char> bytes_of(const Problem<Element, Output>& problem) {
  const auto* const first = reinterpret_cast<const unsigned char*>(problem.y.data.data());
  return {first, first + problem.y.rows * problem.y.stride * static_cast<int64_t>(sizeof(Output))};
}

template <typename Element, typename Output, typename T>
void check(int64_t rows, int64_t depth, int64_t columns, int32_t splits, double bound, uint32_t seed) {
  Problem<Element, Output> problem(rows, depth, columns, seed % 2 == 0, seed);
  Split<Element, T> split(problem.args(), splits);
  split.template run<Output>(seed);
  const double error = problem.error();
  if (!(error <= bound)) {
    std::fprintf(stderr, "tile %d x %d, %lld rows, %lld -> %lld in %d splits: error %.2e, allowed %.2e\n", T::kRows,
                 T::kColumns, static_cast<long long>(rows), static_cast<long long>(depth),
                 static_cast<long long>(columns), splits, error, bound);
    std::exit(1);
  }
  for (int64_t r = 0; r < rows; ++r) CHECK(problem.status[r] == kRowOk);
  // Whoever comes last, and again on the arrivals that the first run left behind.
  const std::vector<unsigned char> before = bytes_of(problem);
  problem.y.poison();
  split.template run<Output>(seed + 1000);
  CHECK(bytes_of(problem) == before);
  if constexpr (sizeof(Element) == 4) {
    Split<Element, T> whole(problem.args(), 1);
    problem.y.poison();
    whole.template run<Output>(seed);
    CHECK(bytes_of(problem) == before);
  }
}

constexpr double kHalfBound = 4e-4, kFloatBound = 4e-7;

template <typename T>
void check_mma_tile(uint32_t seed) {
  for (int32_t splits : {2, 3, 5}) check<Half, Half, T>(T::kRows - 1, 640, T::kColumns + 9, splits, kHalfBound, seed++);
  check<Half, float, T>(1, 130, 40, 2, kFloatBound, seed++);  // the last split has two elements
  check<Bfloat, float, T>(T::kRows + 1, 300, 24, 3, kFloatBound, seed++);
  check<Half, float, T>(3, 2048, 8, 16, kFloatBound, seed++);
}

template <typename T>
void check_fp32_tile(uint32_t seed) {
  for (int32_t splits : {2, 3, 5})
    check<float, float, T>(T::kRows - 1, 320, T::kColumns + 3, splits, kFloatBound, seed++);
  check<float, float, T>(1, 65, 41, 2, kFloatBound, seed++);
  check<float, float, T>(T::kRows + 1, 200, 24, 4, kFloatBound, seed++);
  check<float, float, T>(2, 2048, 8, 32, 2e-7, seed++);
}

// A row that overflows is flagged by the block that comes last, also where each split alone would fit.
void check_overflow() {
  Problem<Half, Half> problem(3, 256, 16, true, 55);
  for (int64_t k = 0; k < 256; ++k) {
    problem.x.data[1 * problem.x.stride + k] = narrowed<Half>(20.0f);
    problem.weight.data[3 * problem.weight.stride + k] = narrowed<Half>(15.0f);
  }
  Split<Half, SmallTile> split(problem.args(), 2);
  split.run<Half>(4);
  CHECK(problem.status[0] == kRowOk && problem.status[1] == kRowOverflow && problem.status[2] == kRowOk);
}

// The plan's splits are what the kernels cut: none has nothing to do, and scratch is what they write.
void check_choice() {
  const DeviceFacts h200{.compute = 90, .multiprocessors = 132, .shared_bytes = 227 * 1024, .memory_bytes = 0};
  for (Dtype precision : {Dtype::f16, Dtype::f32}) {
    for (int32_t depth = 8; depth <= 4096; depth += 8) {
      for (int64_t rows : {1, 20, 64}) {
        const LayerLayout layer{.depth = depth, .columns = 64, .relu = true};
        const TileChoice choice = choose_tile(precision, rows, layer, h200, true);
        const int64_t steps = (depth * size_of(precision) + kStepBytes - 1) / kStepBytes;
        const int64_t sums = (steps + kSplitSteps - 1) / kSplitSteps;
        const int64_t share = (sums + choice.splits - 1) / choice.splits;
        CHECK((choice.splits - 1) * share < sums);
        CHECK(choice.parts == (choice.splits == 1 ? 0 : precision == Dtype::f32 ? sums : choice.splits));
      }
    }
  }
}

}  // namespace

int main() {
  check_mma_tile<NarrowTile>(100);
  check_mma_tile<SmallTile>(200);
  check_fp32_tile<Fp32NarrowTile>(300);
  check_fp32_tile<Fp32SmallTile>(400);
  check_overflow();
  check_choice();
  return 0;
}
