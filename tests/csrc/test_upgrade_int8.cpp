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

constexpr int64_t kNew = 70;  // with the uncertainty two tasks of panels

// Reads float32 where `scaled` is false, else bytes.
struct Linear {
  Linear(int64_t in_dim, int64_t out_dim, bool scaled, bool narrow, uint32_t seed)
      : weight(static_cast<std::size_t>(in_dim * out_dim)),
        bias(static_cast<std::size_t>(out_dim)),
        scale(bias.size()),
        quantized(weight.size()) {
    fill_normal(weight.data(), in_dim * out_dim, seed);
    fill_normal(bias.data(), out_dim, seed + 1);
    for (std::size_t i = 0; i < scale.size(); ++i) scale[i] = 0.015f + 0.001f * static_cast<float>(i % 11);
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

// Odd widths all through; `inner` and `second` set how much work a row is. Without `side_layer` the trunk reads floats.
struct Transform {
  Transform(int64_t inner, int64_t second, bool side_layer)
      : a(19, 41, false, true, 1),
        b(41, 33, true, side_layer, 3),
        c(7, 21, false, true, 5),
        d(side_layer ? 54 : 40, inner, side_layer, true, 7),
        e(inner, second, true, true, 9),
        f(second, kNew + 1, true, false, 11) {
    const std::vector<LayerSource> side = side_layer ? std::vector{c.source} : std::vector<LayerSource>{};
    source = {.old_dim = 19,
              .side_dim = 7,
              .new_dim = kNew,
              .normalize = true,
              .uncertainty = true,
              .precision = Precision::int8,
              .branches = {{.reads_side = false, .layers = {a.source, b.source}}, {.reads_side = true, .layers = side}},
              .trunk = {d.source, e.source, f.source}};
    bytes.resize(static_cast<std::size_t>(packed_size(source)));
    pack_transform(source, bytes.data());
    packed = view_packed(bytes.data(), static_cast<int64_t>(bytes.size()));
  }
  Linear a, b, c, d, e, f;
  TransformSource source;
  std::vector<unsigned char> bytes;
  PackedTransform packed;
};

// Inputs and outputs of some rows, each buffer before an unreadable page; row 5 is bad.
struct Rows {
  explicit Rows(int64_t count) : rows(count), old(rows * 19), side(rows * 7), out(rows * kNew), s(rows), status(rows) {
    fill_normal(old.data(), rows * 19, 11);
    fill_normal(side.data(), rows * 7, 12);
    if (rows > 5) side[5 * 7 + 6] = NAN;
  }
  void upgrade(const PackedTransform& packed, CpuLevel level, int threads, int64_t first, int64_t count) {
    const UpgradeCall call{
        .old = {reinterpret_cast<unsigned char*>(old.data() + first * 19), Dtype::f32, count, 19, 19},
        .side = {reinterpret_cast<unsigned char*>(side.data() + first * 7), Dtype::f32, count, 7, 7},
        .out = {reinterpret_cast<unsigned char*>(out.data() + first * kNew), Dtype::f32, count, kNew, kNew},
        .uncertainty = s.data() + first,
        .status = status.data() + first,
        .threads = threads};
    std::fill_n(out.data() + first * kNew, count * kNew, -1.0f);
    fct::upgrade(packed, level, call);
    for (int64_t r = first; r < first + count; ++r) {
      CHECK((status[r] != 0) == (r == 5));
      CHECK(r == 5 ? out[r * kNew] == 0.0f && s[r] == 0.0f : s[r] != 0.0f);
    }
  }
  std::vector<float> results() const {
    std::vector<float> all(out.data(), out.data() + rows * kNew);
    all.insert(all.end(), s.data(), s.data() + rows);
    return all;
  }
  int64_t rows;
  Guarded<float> old, side, out, s;
  Guarded<unsigned char> status;
};

void check_levels(const Transform& h, const std::vector<int64_t>& row_counts) {
  for (int64_t rows : row_counts) {
    Rows x(rows);
    x.upgrade(h.packed, CpuLevel::scalar, 1, 0, rows);
    const std::vector<float> first = x.results();
    const auto same = [&] {
      const std::vector<float> again = x.results();
      return first.empty() || std::memcmp(first.data(), again.data(), first.size() * 4) == 0;
    };
    for (CpuLevel level : usable_levels()) {
      for (int threads : {1, 2, 3, 8}) {
        x.upgrade(h.packed, level, threads, 0, rows);
        CHECK(same());
      }
      // Cut into pieces, which take other tiles and another way of sharing the work.
      for (int64_t piece : {1, 5, 64}) {
        if (piece >= rows || rows > 200) continue;
        for (int64_t r = 0; r < rows; r += piece) x.upgrade(h.packed, level, 3, r, std::min(piece, rows - r));
        CHECK(same());
      }
    }
  }
}

#if defined(FCT_EMULATED)  // some hundred times slower
const std::vector<int64_t> kFewRows{2}, kManyRows{0, 1, 13, 401};
#else
const std::vector<int64_t> kFewRows{1, 2, 64, 193, 900}, kManyRows{0, 1, 2, 13, 401};
#endif

}  // namespace

int main() {
  const Transform small(300, 31, true), floats(300, 31, false);
  CHECK(small.packed.trunk[0].scale != nullptr && small.packed.trunk[0].narrow && !small.packed.trunk[2].narrow);
  CHECK(floats.packed.trunk[0].scale == nullptr && floats.packed.trunk[0].narrow);
  const int8_t* const panels = static_cast<const int8_t*>(small.packed.trunk[0].panels);
  for (int64_t o = 0; o < 300; ++o) {
    CHECK(small.packed.trunk[0].scale[o] == small.d.scale[o]);
    for (int64_t k = 0; k < 54; ++k)
      CHECK(panels[((o / 16 * 14 + k / 4) * 16 + o % 16) * 4 + k % 4] == small.d.quantized[o * 54 + k]);
  }

  check_levels(small, kManyRows);
  check_levels(floats, kManyRows);
  for (bool side_layer : {true, false})
    check_levels(Transform(701, 603, side_layer), kFewRows);  // two hundred rows are worth several threads

  const int64_t size = static_cast<int64_t>(small.bytes.size());
  std::vector<unsigned char> damaged = small.bytes;
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
  TransformSource deep = small.source;
  deep.trunk[0].in_dim = 1 << 17;
  CHECK_THROWS(pack_transform(deep, damaged.data()), ShapeError);
  return 0;
}
