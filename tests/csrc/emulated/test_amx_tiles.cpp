// The emulated tile registers: what the instructions compute, by hand, and every fault that the kernels could run into;
// and that the kernels leave no tiles behind.
#include <utility>
#include <vector>

#include "check.hpp"
#include "cpu/kernel_table.hpp"
// Last: it takes the word asm away.
#include "immintrin.h"

using emulated::Fault;
using fct::testing::Guarded;

namespace {

struct Shapes {
  uint8_t bytes[64] = {1};
  void set(int tile, int rows, int row_bytes) {
    bytes[48 + tile] = static_cast<uint8_t>(rows);
    bytes[16 + 2 * tile] = static_cast<uint8_t>(row_bytes);
    bytes[17 + 2 * tile] = static_cast<uint8_t>(row_bytes >> 8);
  }
};

void wrong_shapes_are_faults() {
  const auto refused = [](int byte, uint8_t value) {
    Shapes shapes;
    shapes.set(0, 16, 64);
    _tile_loadconfig(shapes.bytes);
    shapes.bytes[byte] = value;
    CHECK_THROWS(_tile_loadconfig(shapes.bytes), Fault);
  };
  refused(0, 2);    // palette
  refused(2, 1);    // reserved
  refused(15, 1);   // reserved
  refused(32, 64);  // a ninth tile
  refused(56, 16);  // its rows
  refused(48, 17);  // rows
  refused(16, 65);  // bytes of a row
  refused(17, 1);   // their upper byte
  refused(48, 0);   // bytes and no rows
  refused(49, 1);   // rows and no bytes
}

void tiles_without_a_shape_are_faults() {
  uint8_t memory[16 * 64] = {};
  _tile_release();
  CHECK_THROWS(_tile_zero(0), Fault);
  Shapes shapes;
  shapes.set(0, 2, 8);
  _tile_loadconfig(shapes.bytes);
  _tile_zero(0);
  CHECK_THROWS(_tile_zero(1), Fault);
  CHECK_THROWS(_tile_zero(8), Fault);
  CHECK_THROWS(_tile_loadd(1, memory, 64), Fault);
  CHECK_THROWS(_tile_stored(1, memory, 64), Fault);
  shapes.bytes[0] = 0;  // the palette of no tiles
  _tile_loadconfig(shapes.bytes);
  CHECK_THROWS(_tile_zero(0), Fault);
}

// Sums 3 x 2, rows 3 x 4, weights 4 x 2 (of 4 bytes): each product of tiles that do not fit is refused.
void products_must_fit() {
  Shapes fitting;
  fitting.set(0, 3, 8);
  fitting.set(1, 3, 16);
  fitting.set(2, 4, 8);
  for (const auto& multiply : {_tile_dpbf16ps, _tile_dpbusd}) {
    _tile_loadconfig(fitting.bytes);
    multiply(0, 1, 2);
    CHECK_THROWS(multiply(0, 1, 1), Fault);
    CHECK_THROWS(multiply(0, 0, 2), Fault);
    CHECK_THROWS(multiply(0, 1, 3), Fault);
    for (int tile : {0, 1, 2}) {
      for (auto [rows, row_bytes] : std::vector<std::pair<int, int>>{{3, 12}, {5, 8}, {4, 16}, {3, 10}}) {
        Shapes wrong = fitting;
        wrong.set(tile, rows, row_bytes);
        _tile_loadconfig(wrong.bytes);
        CHECK_THROWS(multiply(0, 1, 2), Fault);
      }
    }
  }
}

void loads_and_stores_touch_the_shape_alone() {
  constexpr int64_t kStride = 20;
  Shapes shapes;
  shapes.set(5, 3, 12);
  _tile_loadconfig(shapes.bytes);
  Guarded<uint8_t> from(2 * kStride + 12), to(2 * kStride + 12);
  for (int64_t i = 0; i < 2 * kStride + 12; ++i) from[i] = static_cast<uint8_t>(i), to[i] = 255;
  _tile_loadd(5, from.data(), kStride);
  _tile_stored(5, to.data(), kStride);
  for (int64_t i = 0; i < 2 * kStride + 12; ++i) CHECK(to[i] == (i % kStride < 12 ? i : 255));
  CHECK(emulated::tile(5).data[0][12] == 0 && emulated::tile(5).data[3][0] == 0);
  _tile_loadconfig(shapes.bytes);  // zeroes the tiles
  CHECK(emulated::tile(5).data[1][0] == 0);
}

// One row, one column: sums += a . b over `count` elements.
template <typename Sum, typename A, typename B>
Sum dot(void (*multiply)(int, int, int), Sum sum, std::vector<A> a, std::vector<B> b) {
  const int count = static_cast<int>(a.size()), in_line = 4 / static_cast<int>(sizeof(A));
  Shapes shapes;
  shapes.set(0, 1, 4);
  shapes.set(1, 1, 4 * count / in_line);
  shapes.set(2, count / in_line, 4);
  _tile_loadconfig(shapes.bytes);
  _tile_loadd(0, &sum, 4);
  _tile_loadd(1, a.data(), 64);
  _tile_loadd(2, b.data(), 4);
  multiply(0, 1, 2);
  _tile_stored(0, &sum, 4);
  return sum;
}

uint16_t bf16(float x) { return static_cast<uint16_t>(emulated::bits_of(x) >> 16); }

void products_are_those_of_the_manual() {
  using Bytes = std::vector<uint8_t>;
  using Signed = std::vector<int8_t>;
  CHECK(dot<int32_t>(_tile_dpbusd, 7, Bytes{1, 2, 3, 4}, Signed{10, -20, 30, -40}) == 7 + 10 - 40 + 90 - 160);
  CHECK(dot<int32_t>(_tile_dpbusd, 0, Bytes(64, 255), Signed(64, 127)) == 64 * 255 * 127);
  CHECK(dot<int32_t>(_tile_dpbusd, INT32_MIN, Bytes(4, 255), Signed(4, -128)) == INT32_MAX - 130559);

  const auto pairs = [](float sum, std::vector<float> a, std::vector<float> b) {
    std::vector<uint16_t> x, w;
    for (float value : a) x.push_back(bf16(value));
    for (float value : b) w.push_back(bf16(value));
    return dot<float>(_tile_dpbf16ps, sum, x, w);
  };
  CHECK(pairs(1, {2, 3, 4, 5}, {6, 7, 8, 9}) == 1 + 12 + 21 + 32 + 45);
  // Even ones apart from odd ones: 2^60 and -2^60 meet in one chain, or only after each has swallowed its 1.
  CHECK(pairs(0, {0x1p60f, 1, -0x1p60f, 1}, {1, 1, 1, 1}) == 2);
  CHECK(pairs(0, {0x1p60f, -0x1p60f, 1, 1}, {1, 1, 1, 1}) == 0);
  // The chains start from zero, and the sum comes last.
  CHECK(pairs(-0x1p60f, {0x1p60f, 0, 1, 0}, {1, 1, 1, 1}) == 0);
  CHECK(pairs(0, {0x1p-70f, 0}, {0x1p-60f, 0}) == 0 && pairs(0x1p-127f, {0, 0}, {0, 0}) == 0);
  CHECK(pairs(0, {0x1p-130f, 0}, {0x1p60f, 0}) == 0);
}

// Tiles that stay configured would be saved and restored at every switch of the thread.
template <typename Element, typename Weight, typename Args, typename Table>
void leaves_no_tiles(const Table& kernels, Args args) {
  for (int64_t rows : {0, 1, 16, 17, 32, 33}) {
    const std::vector<Element> x(static_cast<std::size_t>(rows * 80));
    const std::vector<Weight> panels(16 * 80);
    std::vector<float> y(static_cast<std::size_t>(rows * 16), 1.0f);
    const std::vector<float> bias(16);
    args.x = x.data(), args.x_stride = 80, args.rows = rows, args.panels = panels.data(), args.panel_count = 1;
    args.bias = bias.data(), args.y = y.data(), args.y_stride = 16;
    kernels.tile(&args);
    for (float value : y) CHECK(value == 0.0f);
    CHECK(!emulated::tile_state.configured);
  }
}

// Four tiles of sums a round; a value of one of them tells that it was done.
void the_peak_counts_its_products() {
  float sum;
  CHECK(fct::kAmxBf16Kernels.peak(3, &sum) == 3 * 4 * 16 * 16 * 32);
  CHECK(std::fabs(sum - 3 * 32 * 0.011474609375f * 0.011474609375f) < 1e-6f);
  CHECK(fct::kAmxInt8Kernels.peak(3, &sum) == 3 * 4 * 16 * 16 * 64);
  CHECK(emulated::bits_of(sum) == 3 * 64 * 0x3c * 0x3c && !emulated::tile_state.configured);
}

}  // namespace

int main() {
  wrong_shapes_are_faults();
  tiles_without_a_shape_are_faults();
  products_must_fit();
  loads_and_stores_touch_the_shape_alone();
  products_are_those_of_the_manual();
  fct::Bf16TileArgs bf16{};
  bf16.pairs = 40;
  leaves_no_tiles<uint16_t, uint16_t>(fct::kAmxBf16Kernels, bf16);
  const std::vector<float> scale(16);
  fct::Int8TileArgs int8{};
  int8.quads = 20;
  int8.scale = scale.data();
  leaves_no_tiles<uint8_t, int8_t>(fct::kAmxInt8Kernels, int8);
  the_peak_counts_its_products();
  return 0;
}
