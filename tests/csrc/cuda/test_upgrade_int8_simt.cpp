// The whole upgrade in int8, by its plan, on the fiber shim: bit for bit what the CPU's scalar engine gives, for odd
// shapes of h, with and without side-information, for any rows, tiles, chunks and dtypes, and rows that are not finite.
#include <algorithm>
#include <cstring>
#include <string>

#include "core/upgrade.hpp"
#include "cuda/upgrade/finish_rows.hpp"
#include "cuda/upgrade/layer_mma.hpp"
#include "cuda/upgrade/layer_ordered.hpp"
#include "cuda/upgrade/layer_wgmma.hpp"
#include "cuda/upgrade/load_rows.hpp"
#include "cuda/upgrade/run.hpp"
#include "int8_support.hpp"

namespace fct::cuda {
namespace {

using namespace fct::cuda::testing;

constexpr DeviceFacts kSmallDevice{.compute = 80, .multiprocessors = 4, .shared_bytes = 99 * 1024, .memory_bytes = 0};

// How often each kernel ran: [reads bytes][tile].
int g_runs[2][6] = {};

class ShimLauncher : public Launcher {
 public:
  explicit ShimLauncher(uint32_t seed) : seed_(seed) {}

  void clear(unsigned char* status, int64_t rows) override { std::memset(status, 0, static_cast<std::size_t>(rows)); }
  void load(const LoadArgs& args, Dtype precision) override {
    CHECK(precision == Dtype::f32);
    go(load_blocks(args, 4), kLoadThreads, 0, [&](unsigned char*) { load_rows<float>(args); });
  }
  void layer(const LayerArgs& args, Dtype, TileName tile, bool last) override {
    CHECK((args.scale != nullptr) != (args.cuts != nullptr) && args.status == nullptr && !(last && args.narrow != 0));
    ++g_runs[args.scale != nullptr][static_cast<int>(tile)];
    args.narrow != 0 ? layer<uint8_t>(args, tile) : layer<float>(args, tile);
  }
  void finish(const FinishArgs& args) override {
    go((args.rows + kFinishRows - 1) / kFinishRows, kFinishThreads, 0, [&](unsigned char*) { finish_rows(args); });
  }
  void fused(const FusedArgs&, Dtype, const FusedPlan&, int64_t) override { CHECK(false); }

 private:
  void go(int64_t blocks, int threads, int64_t shared_bytes, const shim::Body& body) {
    shim::launch({.blocks = blocks, .threads = threads, .shared_bytes = shared_bytes, .seed = seed_++}, body);
  }
  template <typename Output>
  void layer(const LayerArgs& args, TileName tile) {
    if (args.scale != nullptr) {
      if (tile == TileName::wide) imma<Output, WideTile>(args);
      if (tile == TileName::square) imma<Output, SquareTile>(args);
      if (tile == TileName::narrow) imma<Output, NarrowTile>(args);
      if (tile == TileName::small) imma<Output, SmallTile>(args);
      if (tile == TileName::wgmma_wide) wgmma<Output, WgmmaWideTile>(args);
      if (tile == TileName::wgmma_narrow) wgmma<Output, WgmmaNarrowTile>(args);
    } else {
      CHECK(tile != TileName::wide);
      if (tile == TileName::square) ordered<Output, Fp32SquareTile>(args);
      if (tile == TileName::narrow) ordered<Output, Fp32NarrowTile>(args);
      if (tile == TileName::small) ordered<Output, Fp32SmallTile>(args);
    }
  }
  template <typename Output, typename T>
  void imma(const LayerArgs& args) {
    go(blocks<T>(args), T::kThreads, T::template kSharedBytes<Output>,
       [&](unsigned char* shared) { layer_mma<uint8_t, Output, T>(args, shared); });
  }
  template <typename Output, typename T>
  void wgmma(const LayerArgs& args) {
    const WgmmaArgs with_maps = wgmma_args<uint8_t, Output, T>(args);
    go(std::min<int64_t>(blocks<T>(args), 2), T::kThreads, T::kSharedBytes,
       [&](unsigned char* shared) { layer_wgmma<uint8_t, Output, T>(with_maps, shared); });
  }
  template <typename Output, typename T>
  void ordered(const LayerArgs& args) {
    go(blocks<T>(args), T::kThreads, T::template kSharedBytes<Output>,
       [&](unsigned char* shared) { layer_ordered<Output, T>(args, shared); });
  }
  template <typename T>
  static int64_t blocks(const LayerArgs& args) {
    return (args.rows + T::kRows - 1) / T::kRows * ((args.columns + T::kColumns - 1) / T::kColumns);
  }

  uint32_t seed_;
};

struct Result {
  Result(int64_t rows, int64_t columns, Dtype dtype)
      : out(rows, columns, dtype),
        uncertainty(static_cast<std::size_t>(rows), NAN),
        status(static_cast<std::size_t>(rows), 0xee) {}
  CallerRows out;
  std::vector<float> uncertainty;
  std::vector<unsigned char> status;
};

void check_same(const Result& a, const Result& b, const std::string& plan) {
  const bool same =
      std::memcmp(a.out.memory.data(), b.out.memory.data(), static_cast<std::size_t>(a.out.bytes())) == 0 &&
      (a.uncertainty.empty() ||
       std::memcmp(a.uncertainty.data(), b.uncertainty.data(), 4 * a.uncertainty.size()) == 0) &&
      a.status == b.status;
  if (!same) std::fprintf(stderr, "the bits differ:\n%s", plan.c_str());
  CHECK(same);
}

struct Options {
  DeviceFacts device = kSmallDevice;
  int64_t scratch_limit = int64_t{1} << 30;
  Dtype out_dtype = Dtype::f32;
  uint32_t seed = 1;
  int64_t like_rows = 0;
};

using Statuses = std::vector<unsigned char>;

// Runs both, compares them, and gives the status of each row.
Statuses check(const Transform& h, const CallerRows& old, const CallerRows& side, const Options& options) {
  const TransformSource& source = h.source;
  Result want(old.rows, source.new_dim, options.out_dtype), got(old.rows, source.new_dim, options.out_dtype);
  Guarded<unsigned char> packed(packed_size(source));
  fct::pack_transform(source, packed.data());
  const bool with_side = source.side_dim > 0;
  upgrade(view_packed(packed.data(), packed_size(source)), CpuLevel::scalar,
          {.old = old.view(),
           .side = with_side ? side.view() : MatrixView{},
           .out = want.out.view(),
           .uncertainty = source.uncertainty ? want.uncertainty.data() : nullptr,
           .status = want.status.data()});

  const TransformLayout layout = layout_of(source, Dtype::f32);
  Guarded<unsigned char> weights(layout.bytes);
  pack_transform(source, layout, weights.data());
  const UpgradePlan plan = plan_upgrade(layout, options.device, old.rows, options.scratch_limit, options.like_rows);
  Guarded<unsigned char> scratch(plan.scratch_bytes);
  std::memset(scratch.data(), 0xff, static_cast<std::size_t>(plan.scratch_bytes));
  ShimLauncher launcher(options.seed);
  run_upgrade(plan,
              {.old = {old.memory.data(), old.dtype, old.columns},
               .side = {with_side ? side.memory.data() : nullptr, side.dtype, side.columns},
               .out = {got.out.memory.data(), options.out_dtype, source.new_dim},
               .uncertainty = source.uncertainty ? got.uncertainty.data() : nullptr,
               .status = got.status.data(),
               .weights = weights.data(),
               .scratch = scratch.data()},
              launcher);
  check_same(want, got, plan.text());
  return want.status;
}

void check(const Transform& h, int64_t rows, const Options& options, Dtype dtype = Dtype::f32) {
  CallerRows old(rows, h.source.old_dim, dtype), side(rows, std::max<int64_t>(h.source.side_dim, 1), dtype);
  old.fill(options.seed + 1);
  side.fill(options.seed + 2);
  for (unsigned char status : check(h, old, side, options)) CHECK(status == kRowOk);
}

void check_shapes() {
  const Transform odd = Transform::standard(19, 7, 23, 45, true), alone = Transform::standard(33, 0, 17, 70, false);
  uint32_t seed = 10;
  for (int64_t rows : {0, 1, 127, 128, 129}) {
    check(odd, rows, {.seed = seed += 10});
    check(alone, rows, {.seed = seed += 10});
  }
  check(Transform::standard(16, 1, 16, 64, false), 65, {.out_dtype = Dtype::f16, .seed = 7}, Dtype::f16);
  check(Transform::standard(131, 66, 30, 50, true), 40, {.out_dtype = Dtype::bf16, .seed = 8}, Dtype::bf16);
  check(Transform::standard(128, 128, 128, 512, false), 3, {.seed = 9});  // the widths of the default h
  check(Transform::standard(300, 0, 1, 16, false), 5, {.seed = 9});       // cuts in the branch, one column out
}

// Where float32 goes on: branches without layers or whose end has no ReLU, so that the trunk reads float32 with gaps
// between the branches and cuts behind them; layers without ReLU in between; a branch that reads side twice over.
void check_other_forms() {
  Transform plain(131, 66, 11, false);
  plain.branch(false, 131, {});
  plain.branch(true, 66, {{13}, {30, Writes::plain}, {75, Writes::plain}});
  plain.branch(true, 66, {});
  plain.trunk({{45}, {20, Writes::relu}, {21, Writes::plain}, {33}, {11, Writes::plain}});
  check(plain, 50, {.seed = 3});
  plain.source.normalize = false;
  check(plain, 7, {.out_dtype = Dtype::f16, .seed = 4});
  // No bytes after the gaps: they would hide a sum whose last bit is wrong.
  Transform bare(131, 66, 11, false);
  bare.branch(false, 131, {});
  bare.branch(true, 66, {{75, Writes::plain}});
  bare.branch(false, 131, {});
  bare.trunk({{150, Writes::relu}, {11, Writes::plain}});
  bare.source.normalize = false;
  check(bare, 9, {.seed = 5});
}

// The order of a row's squares seldom shows in float32, so a row in which it does: small squares beside a large one,
// and a value that lies between two floats. The last layer's bias is the row.
void check_norm_order() {
  constexpr int64_t kColumns = 256;
  Transform h(2, 0, kColumns, false);
  h.branch(false, 2, {{4}});
  h.trunk({{kColumns, Writes::plain}});
  std::vector<float>& row = h.kept.back().bias;
  std::fill(h.kept.back().quantized.begin(), h.kept.back().quantized.end(), int8_t{0});
  std::mt19937 random(79455);  // the first seed that does
  const auto one_to = [&random](float scale) {
    return scale * (1 + static_cast<float>(random() & 0x3fffff) * 0x1p-24f);
  };
  for (float& x : row) x = one_to(0x1p-27f);
  row[0] = one_to(1);
  double four[4] = {}, lanes[32] = {};
  for (std::size_t c = 0; c < row.size(); ++c) {
    four[c % 4] += static_cast<double>(row[c]) * row[c];
    lanes[c % 32] += static_cast<double>(row[c]) * row[c];
  }
  for (int half = 16; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  const double ordered = 1 / std::sqrt((four[0] + four[1]) + (four[2] + four[3])), other = 1 / std::sqrt(lanes[0]);
  int different = 0;
  for (float x : row) different += static_cast<float>(x * ordered) != static_cast<float>(x * other);
  CHECK(different > 0);
  check(h, 3, {});
}

// Every tile, forced by devices of their own; chunks.
void check_tiles_and_chunks() {
  const Transform h = Transform::standard(64, 12, 120, 256, false);
  constexpr DeviceFacts kOne{.compute = 90, .multiprocessors = 1, .shared_bytes = 227 * 1024, .memory_bytes = 0};
  constexpr DeviceFacts kMany{.compute = 90, .multiprocessors = 1000, .shared_bytes = 227 * 1024, .memory_bytes = 0};
  check(h, 128, {.device = kOne, .seed = 4});
  check(h, 140, {.device = kMany, .seed = 4});
  check(h, 140, {.scratch_limit = 90000, .seed = 4});
  check(h, 140, {.device = kOne, .seed = 4, .like_rows = kWgmmaRows});
}

void check_bad_rows() {
  const Transform h = Transform::standard(24, 8, 10, 48, true);
  CallerRows old(12, 24, Dtype::f32), side(12, 8, Dtype::f32);
  old.fill(5);
  side.fill(6);
  old.set(2, 23, NAN);
  side.set(4, 0, -INFINITY);
  old.set(7, 3, 1e6f);
  for (int64_t c = 0; c < 24; ++c) old.set(9, c, c % 2 == 0 ? 3e38f : -3e38f);  // Inf and NaN on the way, bytes after
  Statuses status = check(h, old, side, {});
  for (int64_t r = 0; r < 12; ++r) CHECK(status[r] == (r == 2 || r == 4 ? kRowNonfiniteInput : kRowOk));

  Transform flat(2, 0, 2, false);
  flat.branch(false, 2, {{4, Writes::bytes}});
  flat.trunk({{2, Writes::plain}});
  for (Linear& layer : flat.kept) {
    std::fill(layer.bias.begin(), layer.bias.end(), 0.0f);
    std::fill(layer.weight.begin(), layer.weight.end(), 100.0f);
    std::fill(layer.quantized.begin(), layer.quantized.end(), int8_t{100});
    std::fill(layer.scale.begin(), layer.scale.end(), 1.0f);
  }
  CallerRows rows(3, 2, Dtype::f32), none(3, 1, Dtype::f32);
  const float values[3] = {-1.0f, 0.0f, 2.0f};
  for (int64_t i = 0; i < 6; ++i) rows.set(i / 2, i % 2, values[i / 2]);
  status = check(flat, rows, none, {});
  CHECK(status[0] == kRowZeroNorm && status[1] == kRowZeroNorm && status[2] == kRowOk);
  flat.source.normalize = false;  // 4 x 255 x 100 does not fit float16
  status = check(flat, rows, none, {.out_dtype = Dtype::f16});
  CHECK(status[0] == kRowOk && status[2] == kRowOverflow);
}

void check_all() {
  check_shapes();
  check_other_forms();
  check_norm_order();
  check_tiles_and_chunks();
  check_bad_rows();
  for (int tile = 0; tile < 6; ++tile) CHECK(g_runs[1][tile] > 0);
  for (int tile = 1; tile < 4; ++tile) CHECK(g_runs[0][tile] > 0);
}

}  // namespace
}  // namespace fct::cuda

int main() {
  fct::cuda::check_all();
  return 0;
}
