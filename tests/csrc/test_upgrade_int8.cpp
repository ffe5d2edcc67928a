// The int8 upgrade of every level: the same bits at each, for any rows and threads, inside the buffers; a packed block
// whose table is damaged is refused or still lies inside itself.
#include <algorithm>
#include <cstring>

#include "check.hpp"
#include "core/error.hpp"
#include "core/upgrade.hpp"

using namespace fct;
using fct::testing::fill_normal;
using fct::testing::Guarded;

namespace {

// Reads float32 where `scaled` is false, else bytes.
struct Linear {
  Linear(int64_t in_dim, int64_t out_dim, bool scaled, bool narrow, uint32_t seed)
      : weight(static_cast<std::size_t>(in_dim * out_dim)),
        bias(static_cast<std::size_t>(out_dim)),
        scale(bias.size(), 0.02f),
        quantized(weight.size()) {
    fill_normal(weight.data(), in_dim * out_dim, seed);
    fill_normal(bias.data(), out_dim, seed + 1);
    for (std::size_t i = 0; i < weight.size(); ++i) {
      quantized[i] = static_cast<int8_t>(std::clamp(40 * weight[i], -127.0f, 127.0f));
      weight[i] *= 20;
    }
    source = {.weight = scaled ? nullptr : weight.data(),
              .bias = bias.data(),
              .in_dim = in_dim,
              .out_dim = out_dim,
              .relu = narrow,
              .quantized = scaled ? quantized.data() : nullptr,
              .scale = scaled ? scale.data() : nullptr,
              .narrow = narrow};
  }
  std::vector<float> weight, bias, scale;
  std::vector<int8_t> quantized;
  LayerSource source;
};

}  // namespace

int main() {
  const Linear a(19, 41, false, true, 1), b(41, 33, true, true, 3), c(7, 21, false, true, 5), d(54, 300, true, true, 7),
      e(300, 24, true, false, 9);
  TransformSource source{
      .old_dim = 19,
      .side_dim = 7,
      .new_dim = 23,
      .normalize = true,
      .uncertainty = true,
      .precision = Precision::int8,
      .branches = {{.reads_side = false, .layers = {a.source, b.source}}, {.reads_side = true, .layers = {c.source}}},
      .trunk = {d.source, e.source}};
  const int64_t size = packed_size(source);
  Guarded<unsigned char> bytes(size);
  pack_transform(source, bytes.data());
  const PackedTransform packed = view_packed(bytes.data(), size);
  CHECK(packed.trunk[0].scale != nullptr && packed.trunk[0].narrow && !packed.trunk[1].narrow);
  const int8_t* const panels = static_cast<const int8_t*>(packed.trunk[0].panels);
  for (int64_t o = 0; o < 300; ++o) {
    CHECK(packed.trunk[0].scale[o] == d.scale[o]);
    for (int64_t k = 0; k < 54; ++k)
      CHECK(panels[((o / 16 * 14 + k / 4) * 16 + o % 16) * 4 + k % 4] == d.quantized[o * 54 + k]);
  }

  for (int64_t rows : {0, 1, 2, 13, 401}) {
    std::vector<float> first;
    for (CpuLevel level : usable_levels()) {
      for (int threads : {1, 2, 3, 8}) {
        Guarded<float> old(rows * 19), side(rows * 7), out(rows * 23), s(rows);
        Guarded<unsigned char> status(rows);
        fill_normal(old.data(), rows * 19, 11);
        fill_normal(side.data(), rows * 7, 12);
        if (rows > 5) side[5 * 7 + 6] = NAN;
        const UpgradeCall call{.old = {reinterpret_cast<unsigned char*>(old.data()), Dtype::f32, rows, 19, 19},
                               .side = {reinterpret_cast<unsigned char*>(side.data()), Dtype::f32, rows, 7, 7},
                               .out = {reinterpret_cast<unsigned char*>(out.data()), Dtype::f32, rows, 23, 23},
                               .uncertainty = s.data(),
                               .status = status.data(),
                               .threads = threads};
        upgrade(packed, level, call);
        for (int64_t r = 0; r < rows; ++r) {
          CHECK((status[r] != 0) == (r == 5));
          CHECK(r == 5 ? out[r * 23] == 0.0f && s[r] == 0.0f : s[r] != 0.0f);
        }
        std::vector<float> all(out.data(), out.data() + rows * 23);
        all.insert(all.end(), s.data(), s.data() + rows);
        if (first.empty()) first = all;
        CHECK(all.empty() || std::memcmp(first.data(), all.data(), all.size() * 4) == 0);
      }
    }
  }

  std::vector<unsigned char> damaged(bytes.data(), bytes.data() + size);
  for (std::size_t i = 0; i < 480; ++i) {
    for (unsigned char flip : {0x01, 0x80, 0xff}) {
      damaged[i] ^= flip;
      try {
        const PackedTransform view = view_packed(damaged.data(), size);
        for (const PackedLayer& l : view.trunk) {
          const int64_t column = l.scale != nullptr ? (l.in_dim + 3) / 4 * 4 : 4 * l.in_dim;
          const auto* end = static_cast<const unsigned char*>(l.panels) + l.panel_count() * kPanelWidth * column;
          CHECK(end <= damaged.data() + size);
          if (l.scale != nullptr) {
            const auto* scale = reinterpret_cast<const unsigned char*>(l.scale);
            CHECK(scale >= damaged.data() && scale + 4 * kPanelWidth * l.panel_count() <= damaged.data() + size);
          }
        }
      } catch (const DtypeError&) {
      }
      damaged[i] ^= flip;
    }
  }
  source.trunk[0].in_dim = 1 << 17;
  CHECK_THROWS(pack_transform(source, bytes.data()), ShapeError);
  return 0;
}
