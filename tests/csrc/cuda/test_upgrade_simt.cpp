// The whole upgrade, by its plan, on the fiber shim, against a float64 chain: default and odd shapes of h, with and
// without side-information, every precision and row count, several chunks, foreign strides, rows that are not finite.
#include <cfloat>
#include <cstring>
#include <memory>

#include "check.hpp"
#include "cuda/upgrade/finish_rows.hpp"
#include "cuda/upgrade/layer_ffma.hpp"
#include "cuda/upgrade/layer_mma.hpp"
#include "cuda/upgrade/load_rows.hpp"
#include "cuda/upgrade/run.hpp"

namespace fct::cuda {
namespace {

using fct::testing::fill_normal;
using fct::testing::Guarded;

constexpr DeviceFacts kSmallDevice{.compute = 80, .multiprocessors = 4, .shared_bytes = 99 * 1024, .memory_bytes = 0};

class ShimLauncher : public Launcher {
 public:
  explicit ShimLauncher(uint32_t seed) : seed_(seed) {}

  void clear(unsigned char* status, int64_t rows) override { std::memset(status, 0, static_cast<std::size_t>(rows)); }

  void load(const LoadArgs& args, Dtype precision) override {
    const int64_t blocks = load_blocks(args, static_cast<int>(size_of(precision)));
    go(blocks, kLoadThreads, 0, [&](unsigned char*) {
      if (precision == Dtype::f32) load_rows<float>(args);
      if (precision == Dtype::f16) load_rows<Half>(args);
      if (precision == Dtype::bf16) load_rows<Bfloat>(args);
    });
  }

  void layer(const LayerArgs& args, Dtype precision, TileName tile, bool last) override {
    ++tiles[static_cast<int>(tile)];
    if (precision == Dtype::f32) {
      if (tile == TileName::square) ffma<Fp32SquareTile>(args);
      if (tile == TileName::narrow) ffma<Fp32NarrowTile>(args);
      if (tile == TileName::small) ffma<Fp32SmallTile>(args);
    } else if (precision == Dtype::f16) {
      last ? mma<Half, float>(args, tile) : mma<Half, Half>(args, tile);
    } else {
      last ? mma<Bfloat, float>(args, tile) : mma<Bfloat, Bfloat>(args, tile);
    }
  }

  void finish(const FinishArgs& args) override {
    go((args.rows + kFinishRows - 1) / kFinishRows, kFinishThreads, 0, [&](unsigned char*) { finish_rows(args); });
  }

  int tiles[4] = {};

 private:
  void go(int64_t blocks, int threads, int64_t shared_bytes, const shim::Body& body) {
    shim::launch({.blocks = blocks, .threads = threads, .shared_bytes = shared_bytes, .seed = seed_++}, body);
  }
  template <typename Element, typename Output>
  void mma(const LayerArgs& args, TileName tile) {
    if (tile == TileName::wide) mma_tile<Element, Output, WideTile>(args);
    if (tile == TileName::square) mma_tile<Element, Output, SquareTile>(args);
    if (tile == TileName::narrow) mma_tile<Element, Output, NarrowTile>(args);
    if (tile == TileName::small) mma_tile<Element, Output, SmallTile>(args);
  }
  template <typename Element, typename Output, typename T>
  void mma_tile(const LayerArgs& args) {
    go(blocks<T>(args), T::kThreads, T::template kSharedBytes<Output>,
       [&](unsigned char* shared) { layer_mma<Element, Output, T>(args, shared); });
  }
  template <typename T>
  void ffma(const LayerArgs& args) {
    go(blocks<T>(args), T::kThreads, T::template kSharedBytes<float>,
       [&](unsigned char* shared) { layer_ffma<T>(args, shared); });
  }
  template <typename T>
  static int64_t blocks(const LayerArgs& args) {
    return (args.rows + T::kRows - 1) / T::kRows * ((args.columns + T::kColumns - 1) / T::kColumns);
  }

  uint32_t seed_;
};

struct Linear {
  Linear(int64_t in_dim, int64_t out_dim, bool with_relu, uint32_t seed)
      : in(in_dim),
        out(out_dim),
        relu(with_relu),
        weight(static_cast<std::size_t>(in_dim * out_dim)),
        bias(static_cast<std::size_t>(out_dim)) {
    fill_normal(weight.data(), in_dim * out_dim, seed);
    for (float& w : weight) w *= std::sqrt(2.0f / static_cast<float>(in_dim));
    fill_normal(bias.data(), out_dim, seed + 1);
    for (float& b : bias) b *= 0.1f;
  }
  LayerSource source() const {
    return {.weight = weight.data(), .bias = bias.data(), .in_dim = in, .out_dim = out, .relu = relu};
  }
  std::vector<double> apply(const std::vector<double>& x) const {
    std::vector<double> y(bias.begin(), bias.end());
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t k = 0; k < in; ++k) y[o] += x[k] * weight[o * in + k];
      if (relu && y[o] < 0) y[o] = 0;
    }
    return y;
  }
  int64_t in, out;
  bool relu;
  std::vector<float> weight, bias;
};

// h as data: branches of old and side, a trunk; its float64 answer.
struct Transform {
  // The paper's h: old -> 2 old -> 2 new, side alike, concatenation -> inner -> inner -> new.
  static Transform standard(int64_t old_dim, int64_t side_dim, int64_t new_dim, int64_t inner, bool uncertainty) {
    Transform h{old_dim, side_dim, new_dim, uncertainty, {}, {}};
    h.add_branch(old_dim, {2 * old_dim, 2 * new_dim});
    if (side_dim > 0) h.add_branch(side_dim, {2 * side_dim, 2 * new_dim});
    h.add_trunk((side_dim > 0 ? 4 : 2) * new_dim, {inner, inner, new_dim + uncertainty});
    return h;
  }
  void add_branch(int64_t width, std::initializer_list<int64_t> widths) {
    branches.emplace_back();
    for (int64_t out : widths) {
      branches.back().emplace_back(width, out, true, seed += 2);
      width = out;
    }
  }
  void add_trunk(int64_t width, std::initializer_list<int64_t> widths) {
    for (int64_t out : widths) {
      trunk.emplace_back(width, out, trunk.size() + 1 < widths.size(), seed += 2);
      width = out;
    }
  }
  TransformSource source() const {
    TransformSource source{old_dim, side_dim, new_dim, normalize, uncertainty, Precision::fp32, {}, {}};
    for (std::size_t b = 0; b < branches.size(); ++b) {
      source.branches.push_back({.reads_side = b == 1, .layers = {}});
      for (const Linear& layer : branches[b]) source.branches.back().layers.push_back(layer.source());
    }
    for (const Linear& layer : trunk) source.trunk.push_back(layer.source());
    return source;
  }
  std::vector<double> apply(const std::vector<double>& old, const std::vector<double>& side) const {
    std::vector<double> x;
    for (std::size_t b = 0; b < branches.size(); ++b) {
      std::vector<double> y = b == 1 ? side : old;
      for (const Linear& layer : branches[b]) y = layer.apply(y);
      x.insert(x.end(), y.begin(), y.end());
    }
    for (const Linear& layer : trunk) x = layer.apply(x);
    if (normalize) {
      double norm = 0;
      for (int64_t i = 0; i < new_dim; ++i) norm += x[i] * x[i];
      for (int64_t i = 0; i < new_dim; ++i) x[i] /= std::sqrt(norm);
    }
    return x;
  }

  int64_t old_dim, side_dim, new_dim;
  bool uncertainty;
  std::vector<std::vector<Linear>> branches;
  std::vector<Linear> trunk;
  bool normalize = true;
  uint32_t seed = 1;
};

// Rows as a caller may hold them: any element type, odd stride, memory that ends with the last value.
struct CallerRows {
  CallerRows(int64_t row_count, int64_t column_count, Dtype type)
      : rows(row_count),
        columns(column_count),
        stride(column_count + 3),
        dtype(type),
        memory(std::make_shared<Guarded<unsigned char>>(size())),
        bytes(memory->data()) {
    std::memset(bytes, 0xff, static_cast<std::size_t>(size()));
  }
  int64_t size() const { return rows == 0 ? 0 : ((rows - 1) * stride + columns) * size_of(dtype); }
  unsigned char* at(int64_t r, int64_t c) const { return bytes + (r * stride + c) * size_of(dtype); }
  float get(int64_t r, int64_t c) const {
    if (dtype == Dtype::f32) {
      float x;
      std::memcpy(&x, at(r, c), 4);
      return x;
    }
    uint16_t bits;
    std::memcpy(&bits, at(r, c), 2);
    return dtype == Dtype::f16 ? float_from_half(bits) : float_from_bfloat(bits);
  }
  void set(int64_t r, int64_t c, float x) {
    if (dtype == Dtype::f32) {
      std::memcpy(at(r, c), &x, 4);
    } else {
      const uint16_t bits = dtype == Dtype::f16 ? half_from_float(x) : bfloat_from_float(x);
      std::memcpy(at(r, c), &bits, 2);
    }
  }
  void fill(uint32_t seed) {
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    fill_normal(values.data(), rows * columns, seed);
    for (int64_t i = 0; i < rows * columns; ++i) set(i / columns, i % columns, values[static_cast<std::size_t>(i)]);
  }
  std::vector<double> row(int64_t r) const {
    std::vector<double> values;
    for (int64_t c = 0; c < columns; ++c) values.push_back(get(r, c));
    return values;
  }

  int64_t rows, columns, stride;
  Dtype dtype;
  std::shared_ptr<Guarded<unsigned char>> memory;
  unsigned char* bytes;
};

struct Result {
  CallerRows out;
  std::vector<float> uncertainty;
  std::vector<unsigned char> status;
  UpgradePlan plan;
};

struct Options {
  Dtype precision = Dtype::f16;
  Dtype out_dtype = Dtype::f32;
  DeviceFacts device = kSmallDevice;
  int64_t scratch_limit = int64_t{1} << 30;
  uint32_t seed = 1;
};

Result run(const Transform& h, const CallerRows& old, const CallerRows& side, const Options& options) {
  const TransformSource source = h.source();
  const TransformLayout layout = layout_of(source, options.precision);
  Guarded<unsigned char> weights(layout.bytes);
  pack_transform(source, layout, weights.data());
  Result result{CallerRows(old.rows, h.new_dim, options.out_dtype),
                std::vector<float>(static_cast<std::size_t>(old.rows), NAN),
                std::vector<unsigned char>(static_cast<std::size_t>(old.rows), 0xee),
                plan_upgrade(layout, options.device, old.rows, options.scratch_limit)};
  Guarded<unsigned char> scratch(result.plan.scratch_bytes);
  std::memset(scratch.data(), 0xff, static_cast<std::size_t>(result.plan.scratch_bytes));
  ShimLauncher launcher(options.seed);
  run_upgrade(result.plan,
              {.old = {old.bytes, old.dtype, old.stride},
               .side = {side.bytes, side.dtype, side.stride},
               .out = {result.out.bytes, options.out_dtype, result.out.stride},
               .uncertainty = h.uncertainty ? result.uncertainty.data() : nullptr,
               .status = result.status.data(),
               .weights = weights.data(),
               .scratch = scratch.data()},
              launcher);
  return result;
}

// The bounds that README promises; a 16-bit output adds its own rounding.
double bound_of(Dtype precision) { return precision == Dtype::f32 ? 2e-6 : precision == Dtype::f16 ? 1.5e-3 : 1e-2; }

void check_against_oracle(const Transform& h, int64_t rows, const Options& options, Dtype input_dtype) {
  CallerRows old(rows, h.old_dim, input_dtype), side(rows, std::max<int64_t>(h.side_dim, 1), input_dtype);
  old.fill(options.seed + 1);
  side.fill(options.seed + 2);
  const Result result = run(h, old, side, options);
  double wrong = 0, all = 1e-30;
  for (int64_t r = 0; r < rows; ++r) {
    CHECK(result.status[r] == kRowOk);
    const std::vector<double> want = h.apply(old.row(r), side.row(r));
    double norm = 0;
    for (int64_t c = 0; c < h.new_dim; ++c) {
      const double got = result.out.get(r, c);
      wrong += (got - want[c]) * (got - want[c]);
      all += want[c] * want[c];
      norm += got * got;
    }
    if (h.normalize && options.out_dtype == Dtype::f32) CHECK(std::fabs(std::sqrt(norm) - 1) <= 2e-7);
    const double room = 20 * bound_of(options.precision);
    if (h.uncertainty) CHECK(std::fabs(result.uncertainty[r] - want[h.new_dim]) <= room);
  }
  const double error = std::sqrt(wrong / all);
  const double bound = bound_of(options.precision) + (options.out_dtype == Dtype::f32 ? 0 : 3e-4);
  if (!(error <= bound)) {
    std::fprintf(stderr, "%lld rows: error %.2e\n%s", static_cast<long long>(rows), error, result.plan.text().c_str());
    std::exit(1);
  }
}

void check_shapes() {
  const Transform usual = Transform::standard(32, 16, 24, 96, false);
  const Transform odd = Transform::standard(19, 7, 23, 45, true);
  const Transform alone = Transform::standard(33, 0, 17, 70, false);
  uint32_t seed = 10;
  for (Dtype precision : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    for (int64_t rows : {0, 1, 127, 128, 129}) {
      check_against_oracle(odd, rows, {.precision = precision, .seed = seed += 10}, Dtype::f32);
    }
    check_against_oracle(usual, 129, {.precision = precision, .seed = seed += 10}, Dtype::f16);
    check_against_oracle(alone, 130, {.precision = precision, .seed = seed += 10}, Dtype::bf16);
    check_against_oracle(alone, 65, {.precision = precision, .out_dtype = Dtype::f16, .seed = seed += 10}, Dtype::f32);
  }
  // The widths of the default h, a few rows.
  const Transform full = Transform::standard(128, 128, 128, 512, false);
  check_against_oracle(full, 3, {.precision = Dtype::f32, .seed = 7}, Dtype::f32);
  check_against_oracle(full, 3, {.precision = Dtype::f16, .seed = 7}, Dtype::f32);
}

// Branches without layers and of three layers, a trunk of one layer.
void check_other_forms() {
  Transform plain{21, 9, 11, false, {}, {}};
  plain.add_branch(21, {});
  plain.add_branch(9, {13, 30, 5});
  plain.add_trunk(26, {11});
  plain.normalize = false;
  for (Dtype precision : {Dtype::f32, Dtype::f16}) {
    check_against_oracle(plain, 50, {.precision = precision, .seed = 3}, Dtype::f32);
  }
}

// Chunks, seeds and devices change no bit of a tile family's rows.
void check_chunks() {
  const Transform h = Transform::standard(20, 12, 16, 40, false);
  CallerRows old(300, 20, Dtype::f32), side(300, 12, Dtype::f32);
  old.fill(1);
  side.fill(2);
  const Result whole = run(h, old, side, {.seed = 1});
  const Result cut = run(h, old, side, {.scratch_limit = whole.plan.scratch_bytes / 2, .seed = 99});
  CHECK(whole.plan.chunk_rows == 300 && cut.plan.chunk_rows == 128);
  CHECK(std::memcmp(whole.out.bytes, cut.out.bytes, static_cast<std::size_t>(whole.out.size())) == 0);
}

// Every tile of the plan's list, forced by a device of its own.
void check_tiles() {
  const Transform h = Transform::standard(16, 0, 130, 264, false);
  const DeviceFacts one{.compute = 90, .multiprocessors = 1, .shared_bytes = 227 * 1024, .memory_bytes = 0};
  DeviceFacts many = one;
  many.multiprocessors = 1000;
  for (const DeviceFacts& device : {one, many}) {
    check_against_oracle(h, 130, {.precision = Dtype::f16, .device = device, .seed = 4}, Dtype::f32);
    check_against_oracle(h, 40, {.precision = Dtype::f32, .device = device, .seed = 4}, Dtype::f32);
  }
}

void check_bad_rows() {
  Transform h = Transform::standard(24, 8, 10, 48, true);
  for (Dtype precision : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    CallerRows old(12, 24, Dtype::f32), side(12, 8, Dtype::f32);
    old.fill(5);
    side.fill(6);
    const Result clean = run(h, old, side, {.precision = precision});
    old.set(2, 23, NAN);
    side.set(4, 0, -INFINITY);
    old.set(7, 3, 1e6f);  // finite, but not in float16
    for (int64_t c = 0; c < 24; ++c) old.set(9, c, 3e38f);
    const Result result = run(h, old, side, {.precision = precision});
    for (int64_t r = 0; r < 12; ++r) {
      const bool input = r == 2 || r == 4;
      const bool overflow = r == 9 || (r == 7 && precision == Dtype::f16);
      CHECK(result.status[r] == (input ? kRowNonfiniteInput : overflow ? kRowOverflow : kRowOk));
      if (input || overflow) {
        for (int64_t c = 0; c < 10; ++c) CHECK(result.out.get(r, c) == 0);
        CHECK(result.uncertainty[r] == 0);
      } else if (r != 7) {
        CHECK(std::memcmp(result.out.at(r, 0), clean.out.at(r, 0), 40) == 0);
      }
    }
  }
}

// An input beyond float16 whose first layer would give -Inf, which ReLU turns into a harmless zero: flagged all the
// same.
void check_overflow_that_relu_would_hide() {
  Transform h{2, 0, 2, false, {}, {}};
  h.add_branch(2, {8});  // whole chunks: padding, where Inf times zero is NaN, would give it away
  h.add_trunk(8, {2});
  for (int i = 0; i < 8; ++i) {
    h.branches[0][0].weight[2 * i] = -1e-3f;
    h.branches[0][0].bias[i] = 2000;
  }
  CallerRows old(3, 2, Dtype::f32), none(3, 1, Dtype::f32);
  for (int64_t r = 0; r < 3; ++r) {
    old.set(r, 0, r == 1 ? 1e6f : 1.0f);
    old.set(r, 1, 1.0f);
  }
  for (Dtype precision : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    const Result result = run(h, old, none, {.precision = precision});
    CHECK(result.status[0] == kRowOk && result.status[2] == kRowOk);
    CHECK(result.status[1] == (precision == Dtype::f16 ? kRowOverflow : kRowOk));
  }
}

// Norms: rows of any scale come out at unit norm; below the smallest normal float a row is zero and flagged.
void check_norms() {
  Transform h{2, 0, 2, false, {}, {}};
  h.add_branch(2, {});
  h.add_trunk(2, {2});
  h.trunk[0].weight = {1, 0, 0, 1};
  h.trunk[0].bias = {0, 0};
  CallerRows old(5, 2, Dtype::f32), none(5, 1, Dtype::f32);
  const float rows[5][2] = {{3e19f, 4e19f}, {3e-38f, 4e-38f}, {0, 0}, {FLT_MIN / 2, 0}, {-3e38f, 3e38f}};
  for (int r = 0; r < 5; ++r) {
    for (int c = 0; c < 2; ++c) old.set(r, c, rows[r][c]);
  }
  Result result = run(h, old, none, {.precision = Dtype::f32});
  for (int r : {0, 1})
    CHECK(std::fabs(result.out.get(r, 0) - 0.6) < 1e-6 && std::fabs(result.out.get(r, 1) - 0.8) < 1e-6);
  CHECK(result.status[1] == kRowOk && result.status[2] == kRowZeroNorm && result.status[3] == kRowZeroNorm);
  CHECK(result.out.get(3, 0) == 0 && std::fabs(result.out.get(4, 0) + std::sqrt(0.5)) < 1e-6);
  h.normalize = false;
  result = run(h, old, none, {.precision = Dtype::f32, .out_dtype = Dtype::f16});
  CHECK(result.status[0] == kRowOverflow && result.out.get(0, 0) == 0);  // finite, but not in float16
  CHECK(result.status[1] == kRowOk && result.status[2] == kRowOk);
}

void check_all() {
  check_shapes();
  check_other_forms();
  check_chunks();
  check_tiles();
  check_bad_rows();
  check_overflow_that_relu_would_hide();
  check_norms();
}

}  // namespace
}  // namespace fct::cuda

int main() {
  fct::cuda::check_all();
  return 0;
}
