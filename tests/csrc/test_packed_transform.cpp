// Packed weights: what was packed is what is viewed, and damaged bytes are refused, never followed.
#include "core/packed_transform.hpp"

#include <cstring>

#include "check.hpp"
#include "core/error.hpp"

using namespace fct;
using fct::testing::fill_normal;
using fct::testing::Guarded;

namespace {

struct Weights {
  std::vector<float> weight, bias;
  LayerSource layer(int64_t in_dim, int64_t out_dim, bool relu) {
    weight.resize(static_cast<std::size_t>(in_dim * out_dim));
    bias.resize(static_cast<std::size_t>(out_dim));
    fill_normal(weight.data(), in_dim * out_dim, 1);
    fill_normal(bias.data(), out_dim, 2);
    return {.weight = weight.data(), .bias = bias.data(), .in_dim = in_dim, .out_dim = out_dim, .relu = relu};
  }
};

}  // namespace

int main() {
  Weights a, b, c;
  TransformSource source{
      .old_dim = 5,
      .side_dim = 3,
      .new_dim = 7,
      .normalize = true,
      .uncertainty = false,
      .precision = Precision::fp32,
      .branches = {{.reads_side = false, .layers = {a.layer(5, 18, true)}}, {.reads_side = true, .layers = {}}},
      .trunk = {b.layer(21, 33, true), c.layer(33, 7, false)}};
  const int64_t size = packed_size(source);
  Guarded<unsigned char> bytes(size);
  pack_transform(source, bytes.data());
  const PackedTransform packed = view_packed(bytes.data(), size);
  CHECK(packed.concat_dim == 21 && packed.widest == 33 && packed.branches.size() == 2 && packed.trunk.size() == 2);
  const PackedLayer& layer = packed.trunk[0];
  for (int64_t o = 0; o < 33; ++o) {
    CHECK(layer.bias[o] == b.bias[o]);
    for (int64_t k = 0; k < 21; ++k)
      CHECK(static_cast<const float*>(layer.panels)[((o / 16) * 21 + k) * 16 + o % 16] == b.weight[o * 21 + k]);
  }
  CHECK(static_cast<const float*>(layer.panels)[((32 / 16) * 21 + 0) * 16 + 15] == 0.0f);

  for (int64_t cut : {int64_t{0}, int64_t{7}, int64_t{64}, size - 1})
    CHECK_THROWS(view_packed(bytes.data(), cut), DtypeError);
  // Every byte of the table flipped in turn: refused, or still a view that lies inside the block.
  std::vector<unsigned char> damaged(bytes.data(), bytes.data() + size);
  for (std::size_t i = 0; i < 320; ++i) {
    for (unsigned char flip : {0x01, 0x80, 0xff}) {
      damaged[i] ^= flip;
      try {
        const PackedTransform view = view_packed(damaged.data(), size);
        for (const PackedLayer& l : view.trunk) {
          const auto* end = static_cast<const unsigned char*>(l.panels) + 4 * l.panel_count() * kPanelWidth * l.in_dim;
          CHECK(end <= damaged.data() + size);
        }
      } catch (const DtypeError&) {
      }
      damaged[i] ^= flip;
    }
  }
  source.trunk[0].in_dim = 20;
  CHECK_THROWS(pack_transform(source, bytes.data()), ShapeError);
  return 0;
}
