// Layers of int8 on the fiber shim, every tile, bit for bit against the definition in plain loops: whole and odd sizes,
// rows 0 to 129, sums up to the end of int32, cuts of float32 sums around padding, rounding at its edges.
#include <cstring>
#include <limits>
#include <vector>

#include "check.hpp"
#include "cuda/upgrade/finish_rows.hpp"
#include "cuda/upgrade/layer_mma.hpp"
#include "cuda/upgrade/layer_ordered.hpp"

using namespace fct::cuda;
using fct::shim::launch;
using fct::testing::fill_normal;
using fct::testing::Guarded;

namespace {

int64_t up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }
template <typename T>
constexpr int64_t kUnit = 16 / static_cast<int64_t>(sizeof(T));

// From y to the output by the words of fct_fast/kernels/int8.py.
template <typename Output>
Output output_of(float y, bool relu) {
  if constexpr (sizeof(Output) == 1) {
    return static_cast<Output>(std::nearbyint(std::fmin(std::fmax(y, 0.0f), 255.0f)));
  } else {
    return relu && y < 0 ? 0.0f : y;
  }
}

// What both kinds of layers share: outputs, bias, and the comparison of bits.
template <typename Output>
struct Outputs {
  Outputs(int64_t row_count, int64_t column_count, uint32_t seed)
      : rows(row_count),
        columns(column_count),
        padded(up(column_count, kUnit<Output>)),
        bias(padded),
        y(row_count * padded) {
    std::memset(bias.data(), 0, static_cast<std::size_t>(padded) * 4);
    fill_normal(bias.data(), columns, seed);
    for (int64_t c = 0; c < columns; ++c) bias[c] *= 40;
    std::memset(y.data(), 0xff, static_cast<std::size_t>(rows * padded) * sizeof(Output));
  }
  template <typename Want>  // (row, column) -> float32 before the output's rule
  void check(bool relu, Want want) const {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < padded; ++c) {
        const Output expected = c < columns ? output_of<Output>(want(r, c), relu) : Output{};
        if (std::memcmp(&expected, &y[r * padded + c], sizeof(Output)) == 0) continue;
        std::fprintf(stderr, "row %lld of %lld, column %lld of %lld: %.9g, expected %.9g\n", static_cast<long long>(r),
                     static_cast<long long>(rows), static_cast<long long>(c), static_cast<long long>(columns),
                     static_cast<double>(y[r * padded + c]), static_cast<double>(expected));
        std::exit(1);
      }
    }
  }
  int64_t rows, columns, padded;
  Guarded<float> bias;
  Guarded<Output> y;
};

template <typename Output, typename T, typename Body>
void run(const LayerArgs& args, uint32_t seed, Body body) {
  const int64_t blocks = (args.rows + T::kRows - 1) / T::kRows * ((args.columns + T::kColumns - 1) / T::kColumns);
  const auto counters =
      launch({.blocks = blocks, .threads = T::kThreads, .shared_bytes = T::template kSharedBytes<Output>, .seed = seed},
             [&](unsigned char* shared) { body(args, shared); });
  CHECK(counters.ldmatrix_conflicts == 0);
}

template <typename Output>
struct BytesLayer {
  BytesLayer(int64_t rows, int64_t depth_, int64_t columns, uint32_t seed)
      : out(rows, columns, seed),
        depth(depth_),
        stride(up(depth_, 16)),
        x(rows * stride),
        weight(out.padded * stride),
        scale(out.padded) {
    std::memset(x.data(), 0, static_cast<std::size_t>(rows * stride));
    std::memset(weight.data(), 0, static_cast<std::size_t>(out.padded * stride));
    std::memset(scale.data(), 0, static_cast<std::size_t>(out.padded) * 4);
    std::mt19937 random(seed);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < depth; ++k) x[r * stride + k] = static_cast<uint8_t>(random() % 256);
    }
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t k = 0; k < depth; ++k)
        weight[c * stride + k] = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
      scale[c] = 1e-2f / std::sqrt(static_cast<float>(depth)) * (1 + static_cast<float>(random() % 100) / 77);
    }
  }
  LayerArgs args(bool relu) {
    return {.x = x.data(),
            .x_stride = stride,
            .weight = weight.data(),
            .bias = out.bias.data(),
            .y = out.y.data(),
            .y_stride = out.padded,
            .rows = out.rows,
            .depth = static_cast<int32_t>(stride),
            .columns = static_cast<int32_t>(out.padded),
            .relu = relu,
            .status = nullptr,
            .scale = scale.data(),
            .narrow = sizeof(Output) == 1};
  }
  float want(int64_t r, int64_t c) const {
    int64_t sum = 0;
    for (int64_t k = 0; k < depth; ++k) sum += int64_t{x[r * stride + k]} * weight[c * stride + k];
    CHECK(sum == static_cast<int32_t>(sum));
    const float scaled = static_cast<float>(sum) * scale[c];
    return scaled + out.bias[c];
  }
  template <typename T>
  void check(bool relu, uint32_t seed) {
    run<Output, T>(args(relu), seed,
                   [](const LayerArgs& a, unsigned char* shared) { layer_mma<uint8_t, Output, T>(a, shared); });
    out.check(relu, [&](int64_t r, int64_t c) { return want(r, c); });
  }
  Outputs<Output> out;
  int64_t depth, stride;
  Guarded<uint8_t> x;
  Guarded<int8_t> weight;
  Guarded<float> scale;
};

template <typename T>
void check_bytes_tile(uint32_t seed) {
  for (int64_t rows : {0, 1, 127, 128, 129}) BytesLayer<uint8_t>(rows, 72, 41, seed).check<T>(true, seed), ++seed;
  BytesLayer<float>(T::kRows + 1, 130, T::kColumns + 9, seed).template check<T>(false, seed), ++seed;
  BytesLayer<float>(3, 1, 1, seed).template check<T>(true, seed), ++seed;
  BytesLayer<uint8_t>(T::kRows - 1, 128 * T::kStages + 9, T::kColumns, seed).template check<T>(true, seed), ++seed;
  BytesLayer<uint8_t>(2, 7 * 128, 2 * T::kColumns - 5, seed).template check<T>(true, seed);
}

// The deepest layer, with sums at both ends: beyond what float32 tells apart, so one wrong product would hide; the
// sums themselves must come out, as float32 rounds them.
void check_largest_sums() {
  constexpr int64_t kDepth = 66311;
  BytesLayer<float> layer(1, kDepth, 3, 1);
  for (int64_t k = 0; k < kDepth; ++k) {
    layer.x[k] = 255;
    layer.weight[k] = 127;
    layer.weight[layer.stride + k] = -127;
    layer.weight[2 * layer.stride + k] = k % 2 == 0 ? 127 : -127;  // odd depth: one product is left
  }
  for (int64_t c = 0; c < 3; ++c) {
    layer.scale[c] = 1;
    layer.out.bias[c] = 0;
  }
  layer.check<SmallTile>(false, 2);
  CHECK(layer.out.y[0] == 2147481728.0f && layer.out.y[1] == -2147481728.0f && layer.out.y[2] == 32385.0f);
}

void check_rounding() {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const struct {
    float y;
    uint8_t q;
  } cases[] = {{0.5f, 0},       {1.5f, 2},       {2.5f, 2},     {254.5f, 254}, {255.5f, 255}, {0.49999997f, 0},
               {3.5000002f, 4}, {3.4999998f, 3}, {253.5f, 254}, {-0.5f, 0},    {-0.0f, 0},    {1e30f, 255},
               {-1e30f, 0},     {kInf, 255},     {-kInf, 0},    {NAN, 0},      {-NAN, 0},     {1e-40f, 0}};
  constexpr int64_t kCases = sizeof(cases) / sizeof(cases[0]);
  BytesLayer<uint8_t> bytes(2, 5, kCases, 3);
  std::memset(bytes.x.data(), 0, static_cast<std::size_t>(2 * bytes.stride));  // so that y is the bias
  for (int64_t c = 0; c < kCases; ++c) bytes.out.bias[c] = cases[c].y;
  bytes.check<NarrowTile>(true, 4);
  for (int64_t c = 0; c < kCases; ++c) CHECK(bytes.out.y[c] == cases[c].q);

  BytesLayer<float> wide(1, 5, 3, 3);  // to float32, NaN passes ReLU
  std::memset(wide.x.data(), 0, static_cast<std::size_t>(wide.stride));
  wide.out.bias[0] = -2.5f;
  wide.out.bias[1] = NAN;
  run<float, SmallTile>(wide.args(true), 5, [](const LayerArgs& a, unsigned char* shared) {
    layer_mma<uint8_t, float, SmallTile>(a, shared);
  });
  CHECK(wide.out.y[0] == 0.0f && std::isnan(wide.out.y[1]));
}

// Reads float32 in pieces, each padded to whole chunks, as branches lie in a concatenation.
template <typename Output>
struct OrderedLayerProblem {
  OrderedLayerProblem(int64_t rows, std::vector<int64_t> pieces, int64_t columns, uint32_t seed)
      : out(rows, columns, seed),
        places(places_of(pieces)),
        stride(stride_of(pieces)),
        x(rows * stride),
        weight(out.padded * stride) {
    const int64_t depth = static_cast<int64_t>(places.size());
    for (int64_t k = 128; k < depth; k += 128)
      cuts.push_back(static_cast<int32_t>(places[static_cast<std::size_t>(k)]));
    cuts.push_back(kNoCut);
    std::memset(x.data(), 0, static_cast<std::size_t>(rows * stride) * 4);
    std::memset(weight.data(), 0, static_cast<std::size_t>(out.padded * stride) * 4);
    fill(x.data(), rows, seed + 1, 1);
    fill(weight.data(), columns, seed + 2, 60 / std::sqrt(static_cast<float>(depth)));
  }
  static std::vector<int64_t> places_of(const std::vector<int64_t>& pieces) {
    std::vector<int64_t> places;
    int64_t first = 0;
    for (int64_t piece : pieces) {
      for (int64_t k = 0; k < piece; ++k) places.push_back(first + k);
      first += up(piece, 4);
    }
    return places;
  }
  static int64_t stride_of(const std::vector<int64_t>& pieces) {
    int64_t stride = 0;
    for (int64_t piece : pieces) stride += up(piece, 4);
    return stride;
  }
  void fill(float* target, int64_t count, uint32_t seed, float factor) {
    std::vector<float> values(static_cast<std::size_t>(count) * places.size());
    fill_normal(values.data(), static_cast<int64_t>(values.size()), seed);
    for (std::size_t i = 0; i < values.size(); ++i)
      target[static_cast<int64_t>(i / places.size()) * stride + places[i % places.size()]] = values[i] * factor;
  }
  float want(int64_t r, int64_t c) const {
    float total = 0;
    for (std::size_t first = 0; first < places.size(); first += 128) {
      float sum = 0;
      for (std::size_t k = first; k < std::min(first + 128, places.size()); ++k) {
        const float product = x[r * stride + places[k]] * weight[c * stride + places[k]];
        sum = sum + product;
      }
      total = first == 0 ? sum : total + sum;
    }
    return total + out.bias[c];
  }
  template <typename T>
  void check(bool relu, uint32_t seed) {
    const LayerArgs args{.x = x.data(),
                         .x_stride = stride,
                         .weight = weight.data(),
                         .bias = out.bias.data(),
                         .y = out.y.data(),
                         .y_stride = out.padded,
                         .rows = out.rows,
                         .depth = static_cast<int32_t>(stride),
                         .columns = static_cast<int32_t>(out.padded),
                         .relu = relu,
                         .status = nullptr,
                         .cuts = cuts.data(),
                         .narrow = sizeof(Output) == 1};
    run<Output, T>(args, seed, [](const LayerArgs& a, unsigned char* shared) { layer_ordered<Output, T>(a, shared); });
    out.check(relu, [&](int64_t r, int64_t c) { return want(r, c); });
  }
  Outputs<Output> out;
  std::vector<int64_t> places;  // of the true columns
  int64_t stride;
  Guarded<float> x, weight;
  std::vector<int32_t> cuts;
};

template <typename T>
void check_ordered_tile(uint32_t seed) {
  for (int64_t rows : {0, 1, 127, 128, 129}) {
    OrderedLayerProblem<uint8_t>(rows, {37}, 41, seed).template check<T>(true, seed);
    ++seed;
  }
  OrderedLayerProblem<float>(T::kRows + 1, {129}, T::kColumns + 3, seed).template check<T>(false, seed);
  OrderedLayerProblem<float>(5, {128}, 7, seed).template check<T>(true, seed);
  OrderedLayerProblem<uint8_t>(5, {32 * T::kStages + 401}, T::kColumns - 1, seed).template check<T>(true, seed);
  // A cut at each place of a chunk: pieces that leave gaps of 3, 2, 1 and 0.
  for (int64_t first : {1, 2, 3, 4}) {
    OrderedLayerProblem<float>(3, {first, 126, 5, 130}, 9, seed + 1).template check<T>(false, seed);
    OrderedLayerProblem<uint8_t>(2, {127 + first, 200}, 17, seed + 2).template check<T>(true, seed);
  }
}

// Squares in the order of the definition, to the last bit of float64.
void check_squares() {
  for (int columns = 1; columns <= 70; ++columns) {
    std::vector<float> row(static_cast<std::size_t>(columns));
    fill_normal(row.data(), columns, static_cast<uint32_t>(columns));
    const auto square = [&](int c) {
      return static_cast<double>(row[static_cast<std::size_t>(c)]) * row[static_cast<std::size_t>(c)];
    };
    double sums[4] = {};
    const int whole = columns / 4 * 4;
    for (int c = 0; c < whole; ++c) sums[c % 4] += square(c);
    double want = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    for (int c = whole; c < columns; ++c) want += square(c);
    launch({.blocks = 1, .threads = 32, .shared_bytes = 0, .seed = 1},
           [&](unsigned char*) { CHECK(ordered_squares(row.data(), columns) == want); });
  }
}

}  // namespace

int main() {
  check_bytes_tile<WideTile>(100);
  check_bytes_tile<SquareTile>(200);
  check_bytes_tile<NarrowTile>(300);
  check_bytes_tile<SmallTile>(400);
  check_largest_sums();
  check_rounding();
  check_squares();
  check_ordered_tile<Fp32SquareTile>(500);
  check_ordered_tile<Fp32NarrowTile>(600);
  check_ordered_tile<Fp32SmallTile>(700);
  return 0;
}
