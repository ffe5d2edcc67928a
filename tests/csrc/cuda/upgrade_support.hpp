// What the tests of whole upgrades share: transformations with a float64 answer, rows as callers hold them, and a run
// of a plan on the fiber shim.
#pragma once

#include <cstring>
#include <memory>

#include "check.hpp"
#include "core/half.hpp"
#include "shim_launcher.hpp"

namespace fct::cuda::testing {

using fct::testing::fill_normal;
using fct::testing::Guarded;

constexpr DeviceFacts kSmallDevice{.compute = 80, .multiprocessors = 4, .shared_bytes = 99 * 1024, .memory_bytes = 0};

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

// Rows as a caller may hold them: any element type, any stride, memory that ends with the last value.
struct CallerRows {
  CallerRows(int64_t row_count, int64_t column_count, Dtype type, int64_t gap = 3)
      : rows(row_count),
        columns(column_count),
        stride(column_count + gap),
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

// Kernels as for so many rows: no small tile, no split.
constexpr int64_t kMany = 1 << 17;

struct Options {
  Dtype precision = Dtype::f16;
  Dtype out_dtype = Dtype::f32;
  DeviceFacts device = kSmallDevice;
  int64_t scratch_limit = int64_t{1} << 30;
  bool fuse = false;
  int64_t like_rows = 0;
  uint32_t seed = 1;
};

inline Result run(const Transform& h, const CallerRows& old, const CallerRows& side, const Options& options) {
  const TransformSource source = h.source();
  const TransformLayout layout = layout_of(source, options.precision);
  Guarded<unsigned char> weights(layout.bytes);
  pack_transform(source, layout, weights.data());
  Result result{CallerRows(old.rows, h.new_dim, options.out_dtype),
                std::vector<float>(static_cast<std::size_t>(old.rows), NAN),
                std::vector<unsigned char>(static_cast<std::size_t>(old.rows), 0xee),
                plan_upgrade(layout, options.device, old.rows, options.scratch_limit, options.like_rows, options.fuse)};
  Guarded<unsigned char> scratch(result.plan.scratch_bytes);
  std::memset(scratch.data(), 0xff, static_cast<std::size_t>(result.plan.scratch_bytes));
  if (options.fuse && options.precision != Dtype::f32) CHECK(result.plan.fused);
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
inline double bound_of(Dtype precision) {
  return precision == Dtype::f32 ? 2e-6 : precision == Dtype::f16 ? 1.5e-3 : 1e-2;
}

inline void check_against_oracle(const Transform& h, int64_t rows, const Options& options, Dtype input_dtype,
                                 int64_t gap = 3) {
  CallerRows old(rows, h.old_dim, input_dtype, gap), side(rows, std::max<int64_t>(h.side_dim, 1), input_dtype, gap);
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
  const double rounding = options.out_dtype == Dtype::f32 ? 0 : options.out_dtype == Dtype::f16 ? 3e-4 : 3e-3;
  const double bound = bound_of(options.precision) + rounding;
  if (!(error <= bound)) {
    std::fprintf(stderr, "%lld rows: error %.2e\n%s", static_cast<long long>(rows), error, result.plan.text().c_str());
    std::exit(1);
  }
}

// Branches without layers and of three layers, a trunk of one layer.
inline Transform other_form() {
  Transform plain{21, 9, 11, false, {}, {}};
  plain.add_branch(21, {});
  plain.add_branch(9, {13, 30, 5});
  plain.add_trunk(26, {11});
  plain.normalize = false;
  return plain;
}

}  // namespace fct::cuda::testing
