// The upgrade of every level against a float64 chain: any rows, any cut, any threads, inside the buffers.
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

void check_level(CpuLevel level) {
  const Linear a(19, 40, true, 1), b(40, 33, true, 3), c(7, 21, true, 5), d(54, 300, true, 7), e(300, 24, false, 9);
  const TransformSource source{.old_dim = 19,
                               .side_dim = 7,
                               .new_dim = 23,
                               .normalize = true,
                               .uncertainty = true,
                               .precision = Precision::fp32,
                               .branches = {{.reads_side = false, .layers = {a.source(), b.source()}},
                                            {.reads_side = true, .layers = {c.source()}}},
                               .trunk = {d.source(), e.source()}};
  std::vector<unsigned char> bytes(static_cast<std::size_t>(packed_size(source)));
  pack_transform(source, bytes.data());
  const PackedTransform packed = view_packed(bytes.data(), static_cast<int64_t>(bytes.size()));
  for (int64_t rows : {0, 1, 2, 13, 401}) {
    Guarded<float> old(rows * 19), side(rows * 7), out(rows * 23), s(rows);
    Guarded<unsigned char> status(rows);
    fill_normal(old.data(), rows * 19, 11);
    fill_normal(side.data(), rows * 7, 12);
    if (rows > 5) side[5 * 7 + 6] = NAN;
    UpgradeCall call{.old = {reinterpret_cast<unsigned char*>(old.data()), Dtype::f32, rows, 19, 19},
                     .side = {reinterpret_cast<unsigned char*>(side.data()), Dtype::f32, rows, 7, 7},
                     .out = {reinterpret_cast<unsigned char*>(out.data()), Dtype::f32, rows, 23, 23},
                     .uncertainty = s.data(),
                     .status = status.data(),
                     .threads = 1};
    upgrade(packed, level, call);
    for (int64_t r = 0; r < rows; ++r) {
      if (r == 5) {
        CHECK(status[r] == static_cast<unsigned char>(RowStatus::nonfinite_input) && out[r * 23] == 0.0f &&
              s[r] == 0.0f);
        continue;
      }
      std::vector<double> x = b.apply(a.apply(std::vector<double>(old.data() + r * 19, old.data() + r * 19 + 19)));
      const std::vector<double> y = c.apply(std::vector<double>(side.data() + r * 7, side.data() + r * 7 + 7));
      x.insert(x.end(), y.begin(), y.end());
      x = e.apply(d.apply(x));
      double norm = 0;
      for (int i = 0; i < 23; ++i) norm += x[i] * x[i];
      norm = std::sqrt(norm);
      for (int i = 0; i < 23; ++i) CHECK(std::fabs(out[r * 23 + i] - x[i] / norm) < 2e-6);
      CHECK(std::fabs(s[r] - x[23]) < 1e-5);
    }
    const std::vector<float> first(out.data(), out.data() + rows * 23);
    for (int threads : {2, 3, 8}) {
      call.threads = threads;
      std::fill(out.data(), out.data() + rows * 23, -1.0f);
      upgrade(packed, level, call);
      CHECK(first.empty() || std::memcmp(first.data(), out.data(), first.size() * 4) == 0);
    }
  }
}

}  // namespace

int main() {
  for (CpuLevel level : usable_levels()) check_level(level);
  return 0;
}
