// The shim's mma.sync against CuTe's layouts of the same instruction: fragments are filled by CuTe's maps, so a
// misreading of the PTX manual that kernel and shim share would show. Built by tests/cuda/test_fragments.py where
// CuTe's headers are.
#include <cstdio>
#include <cute/atom/mma_traits_sm80.hpp>
#include <type_traits>

#include "check.hpp"
#include "cuda/simt/simt.hpp"

namespace {

using fct::cuda::Bfloat;
using fct::cuda::Half;

template <typename Element, typename Operation>
void check() {
  using Traits = cute::MMA_Traits<Operation>;
  float a[16][16], w[8][16];
  fct::testing::fill_normal(&a[0][0], 256, 1);
  fct::testing::fill_normal(&w[0][0], 128, 2);
  // A layout maps (lane, value) to row + rows x column.
  const auto bits = [](const float* matrix, int rows, int index) {
    return fct::cuda::narrowed<Element>(matrix[index % rows * 16 + index / rows]).bits;
  };
  float result[16][8];
  fct::shim::launch({.blocks = 1, .threads = 32, .shared_bytes = 0, .seed = 1}, [&](unsigned char*) {
    const int lane = fct::cuda::lane_index();
    uint32_t fa[4] = {}, fb[2] = {};
    for (int v = 0; v < 8; ++v)
      fa[v / 2] |= static_cast<uint32_t>(bits(&a[0][0], 16, typename Traits::ALayout{}(lane, v))) << v % 2 * 16;
    for (int v = 0; v < 4; ++v)
      fb[v / 2] |= static_cast<uint32_t>(bits(&w[0][0], 8, typename Traits::BLayout{}(lane, v))) << v % 2 * 16;
    float c[4] = {};
    fct::cuda::mma_16816(Element{}, c, fa, fb[0], fb[1]);
    for (int v = 0; v < 4; ++v) {
      const int index = typename Traits::CLayout{}(lane, v);
      result[index % 16][index / 16] = c[v];
    }
  });
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      double sum = 0;
      for (int k = 0; k < 16; ++k)
        sum += static_cast<double>(fct::cuda::widen(fct::cuda::narrowed<Element>(a[m][k]))) *
               fct::cuda::widen(fct::cuda::narrowed<Element>(w[n][k]));
      CHECK(std::fabs(sum - result[m][n]) < 1e-5);
    }
  }
}

// m16n8k32 of unsigned and signed bytes, or of signed ones alone.
template <typename Byte, typename Operation>
void check_bytes() {
  using Traits = cute::MMA_Traits<Operation>;
  Byte a[16][32];
  int8_t w[8][32];
  std::mt19937 random(1);
  for (auto& row : a) {
    for (Byte& x : row) x = static_cast<Byte>(random());
  }
  for (auto& row : w) {
    for (int8_t& x : row) x = static_cast<int8_t>(random());
  }
  int32_t result[16][8];
  fct::shim::launch({.blocks = 1, .threads = 32, .shared_bytes = 0, .seed = 1}, [&](unsigned char*) {
    const int lane = fct::cuda::lane_index();
    uint32_t fa[4] = {}, fb[2] = {};
    for (int v = 0; v < 16; ++v) {
      const int index = typename Traits::ALayout{}(lane, v);
      fa[v / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(a[index % 16][index / 16])) << v % 4 * 8;
    }
    for (int v = 0; v < 8; ++v) {
      const int index = typename Traits::BLayout{}(lane, v);
      fb[v / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(w[index % 8][index / 8])) << v % 4 * 8;
    }
    int32_t c[4] = {};
    if constexpr (std::is_signed_v<Byte>) {
      fct::cuda::mma_16816(fct::cuda::BytePair{}, c, fa, fb[0], fb[1]);
    } else {
      fct::cuda::mma_16832(c, fa, fb[0], fb[1]);
    }
    for (int v = 0; v < 4; ++v) {
      const int index = typename Traits::CLayout{}(lane, v);
      result[index % 16][index / 16] = c[v];
    }
  });
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      int32_t sum = 0;
      for (int k = 0; k < 32; ++k) sum += a[m][k] * w[n][k];
      CHECK(sum == result[m][n]);
    }
  }
}

}  // namespace

int main() {
  check<Half, cute::SM80_16x8x16_F32F16F16F32_TN>();
  check<Bfloat, cute::SM80_16x8x16_F32BF16BF16F32_TN>();
  check_bytes<uint8_t, cute::SM80_16x8x32_S32U8S8S32_TN>();
  check_bytes<int8_t, cute::SM80_16x8x32_S32S8S8S32_TN>();
  std::puts("fragments agree with CuTe");
  return 0;
}
