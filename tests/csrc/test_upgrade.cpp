// The upgrade of every level, in fp32 and where it is there in bf16, against a float64 chain: any rows, any cut, any
// threads, inside the buffers.
#include "core/upgrade.hpp"

#include <algorithm>
#include <cstring>

#include "check.hpp"

using namespace fct;
using fct::testing::fill_normal;
using fct::testing::Guarded;

namespace {

struct Linear {
  Linear(int64_t in_dim, int64_t out_dim, bool relu, uint32_t seed)
      : in(in_dim),
        out(out_dim),
        has_relu(relu),
        weight(static_cast<std::size_t>(in_dim * out_dim)),
        bias(static_cast<std::size_t>(out_dim)) {
    fill_normal(weight.data(), in_dim * out_dim, seed);
    for (float& w : weight) w /= std::sqrt(static_cast<float>(in_dim));
    fill_normal(bias.data(), out_dim, seed + 1);
  }
  LayerSource source() const {
    return {.weight = weight.data(), .bias = bias.data(), .in_dim = in, .out_dim = out, .relu = has_relu};
  }
  std::vector<double> apply(const std::vector<double>& x) const {
    std::vector<double> y(bias.begin(), bias.end());
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t k = 0; k < in; ++k) y[o] += x[k] * weight[o * in + k];
      if (has_relu && y[o] < 0) y[o] = 0;
    }
    return y;
  }
  int64_t in, out;
  bool has_relu;
  std::vector<float> weight, bias;
};

// Odd widths all through; `inner` and `second` set how much work a row is.
struct Transform {
  Transform(int64_t inner, int64_t second, Precision precision)
      : a(19, 40, true, 1),
        b(40, 33, true, 3),
        c(7, 21, true, 5),
        d(54, inner, true, 7),
        e(inner, second, true, 9),
        f(second, 24, false, 11) {
    const TransformSource source{.old_dim = 19,
                                 .side_dim = 7,
                                 .new_dim = 23,
                                 .normalize = true,
                                 .uncertainty = true,
                                 .precision = precision,
                                 .branches = {{.reads_side = false, .layers = {a.source(), b.source()}},
                                              {.reads_side = true, .layers = {c.source()}}},
                                 .trunk = {d.source(), e.source(), f.source()}};
    bytes.resize(static_cast<std::size_t>(packed_size(source)));
    pack_transform(source, bytes.data());
    packed = view_packed(bytes.data(), static_cast<int64_t>(bytes.size()));
  }
  std::vector<double> apply(const float* old, const float* side) const {
    std::vector<double> x = b.apply(a.apply(std::vector<double>(old, old + 19)));
    const std::vector<double> y = c.apply(std::vector<double>(side, side + 7));
    x.insert(x.end(), y.begin(), y.end());
    return f.apply(e.apply(d.apply(x)));
  }
  Linear a, b, c, d, e, f;
  std::vector<unsigned char> bytes;
  PackedTransform packed;
};

// Inputs and outputs of some rows, each buffer before an unreadable page; row 5 is bad.
struct Rows {
  explicit Rows(int64_t count) : rows(count), old(rows * 19), side(rows * 7), out(rows * 23), s(rows), status(rows) {
    fill_normal(old.data(), rows * 19, 11);
    fill_normal(side.data(), rows * 7, 12);
    if (rows > 5) side[5 * 7 + 6] = NAN;
  }
  void upgrade(const PackedTransform& packed, CpuLevel level, int threads, int64_t first, int64_t count) {
    const UpgradeCall call{
        .old = {reinterpret_cast<unsigned char*>(old.data() + first * 19), Dtype::f32, count, 19, 19},
        .side = {reinterpret_cast<unsigned char*>(side.data() + first * 7), Dtype::f32, count, 7, 7},
        .out = {reinterpret_cast<unsigned char*>(out.data() + first * 23), Dtype::f32, count, 23, 23},
        .uncertainty = s.data() + first,
        .status = status.data() + first,
        .threads = threads};
    std::fill_n(out.data() + first * 23, count * 23, -1.0f);
    fct::upgrade(packed, level, call);
  }
  int64_t rows;
  Guarded<float> old, side, out, s;
  Guarded<unsigned char> status;
};

void check_values(const Transform& h, const Rows& x) {
  for (int64_t r = 0; r < x.rows; ++r) {
    if (r == 5) {
      CHECK(x.status[r] == static_cast<unsigned char>(RowStatus::nonfinite_input) && x.out[r * 23] == 0.0f &&
            x.s[r] == 0.0f);
      continue;
    }
    CHECK(x.status[r] == static_cast<unsigned char>(RowStatus::ok));
    const std::vector<double> y = h.apply(x.old.data() + r * 19, x.side.data() + r * 7);
    double norm = 0;
    for (int i = 0; i < 23; ++i) norm += y[i] * y[i];
    norm = std::sqrt(norm);
    const bool fp32 = h.packed.precision == Precision::fp32;
    for (int i = 0; i < 23; ++i) CHECK(std::fabs(x.out[r * 23 + i] - y[i] / norm) < (fp32 ? 2e-6 : 1e-2));
    CHECK(std::fabs(x.s[r] - y[23]) < (fp32 ? 1e-5 : 5e-2));
  }
}

void check_level(CpuLevel level, const Transform& h, const std::vector<int64_t>& row_counts) {
  for (int64_t rows : row_counts) {
    Rows x(rows);
    x.upgrade(h.packed, level, 1, 0, rows);
    check_values(h, x);
    const std::vector<float> first(x.out.data(), x.out.data() + rows * 23);
    const auto same = [&] { return first.empty() || std::memcmp(first.data(), x.out.data(), first.size() * 4) == 0; };
    for (int threads : {2, 3, 8}) {
      x.upgrade(h.packed, level, threads, 0, rows);
      CHECK(same());
    }
    // Cut into pieces of any size, which take other tiles and another way of sharing the work.
    for (int64_t piece : {1, 5, 64}) {
      if (piece >= rows) continue;
      for (int64_t r = 0; r < rows; r += piece) x.upgrade(h.packed, level, 3, r, std::min(piece, rows - r));
      CHECK(same());
    }
  }
}

#if defined(FCT_EMULATED)  // some hundred times slower
const std::vector<int64_t> kFewRows{2, 65}, kManyRows{0, 1, 13, 193};
#else
const std::vector<int64_t> kFewRows{1, 2, 7, 16, 64, 65, 130}, kManyRows{0, 1, 2, 13, 401};
#endif

}  // namespace

int main() {
  for (Precision precision : {Precision::fp32, Precision::bf16}) {
    const Transform small(300, 31, precision), wide(701, 603, precision);  // a row of `wide` is worth several threads
    for (CpuLevel level : usable_levels()) {
      if (precision == Precision::bf16 && bf16_kernels_of(level) == nullptr) continue;
      check_level(level, small, kManyRows);
      check_level(level, wide, kFewRows);
    }
  }
  return 0;
}
