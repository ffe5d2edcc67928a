// wgmma and its operands against CuTe: accumulator maps, the swizzle of 128 bytes, descriptors, and products of the
// shim whose operands and sums are placed by CuTe alone. Built by tests/cuda/test_fragments.py where CuTe's headers
// are.
#include <cstdio>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/tensor.hpp>

#include "check.hpp"
#include "cuda/simt/hopper.hpp"

namespace {

using namespace fct::cuda;
namespace gmma = cute::SM90::GMMA;

constexpr auto kMajor = gmma::Major::K;

// Rows of 128 bytes of depth at `shared`, as CuTe lays them out.
template <typename Element, int kRows>
auto operand(unsigned char* shared) {
  const auto layout =
      cute::tile_to_shape(gmma::Layout_K_SW128_Atom<Element>{},
                          cute::Shape<cute::Int<kRows>, cute::Int<128 / static_cast<int>(sizeof(Element))>>{});
  return cute::make_tensor(cute::make_smem_ptr(reinterpret_cast<Element*>(shared)), layout);
}

// CuTe's descriptor of the `k`-th 32 bytes of depth; on the host it leaves the address out.
template <int kDepth, typename Tensor>
uint64_t descriptor(const Tensor& operand, int k, uint32_t address) {
  const auto tiles = cute::local_tile(operand, cute::make_tile(cute::size<0>(operand), cute::Int<kDepth>{}),
                                      cute::make_coord(cute::Int<0>{}, cute::_));
  cute::GmmaDescriptor made = gmma::make_gmma_desc<kMajor>(tiles(cute::_, cute::_, 0));
  made.bitfield.start_address_ = static_cast<uint16_t>(address >> 4 & 0x3fff);
  const uint32_t step = static_cast<uint32_t>(cute::raw_pointer_cast(tiles(cute::_, cute::_, k).data()) -
                                              cute::raw_pointer_cast(tiles(cute::_, cute::_, 0).data())) *
                        sizeof(typename Tensor::value_type);
  return *(gmma::DescriptorIterator{made} + static_cast<int>(step >> 4));
}

// kDepth elements of depth a product. `Ours` is the element of the body, Element CuTe's.
template <typename Traits, typename Ours, typename A, typename B, typename Sum, int kColumns, int kDepth>
void check() {
  constexpr int kBoxDepth = 128 / static_cast<int>(sizeof(A));
  constexpr int kSharedBytes = (64 + kColumns) * 128;
  std::mt19937 random(1);
  float a[64][kBoxDepth], b[kColumns][kBoxDepth];
  for (auto& row : a) {
    for (float& x : row)
      x = static_cast<float>(sizeof(A) == 1 ? random() % 256 : random() % 17) - (sizeof(A) == 1 ? 0 : 8);
  }
  for (auto& row : b) {
    for (float& x : row) x = static_cast<float>(static_cast<int>(random() % 15)) - 7;
  }
  static Sum result[64][kColumns];
  fct::shim::launch({.blocks = 1, .threads = 128, .shared_bytes = kSharedBytes, .seed = 1}, [&](unsigned char* shared) {
    const auto left = operand<A, 64>(shared);
    const auto right = operand<B, kColumns>(shared + 64 * 128);
    if (thread_index() == 0) {
      for (int k = 0; k < kBoxDepth; ++k) {
        for (int r = 0; r < 64; ++r) left(r, k) = static_cast<A>(a[r][k]);
        for (int n = 0; n < kColumns; ++n) right(n, k) = static_cast<B>(b[n][k]);
      }
      // What tensor_load and the epilogues take the place of a chunk to be.
      for (int r = 0; r < 64; ++r) {
        for (int k = 0; k < kBoxDepth; ++k) {
          const int byte = k * static_cast<int>(sizeof(A));
          const unsigned char* const at = shared + r * 128 + (byte / 16 ^ r % 8) * 16 + byte % 16;
          CHECK(*reinterpret_cast<const A*>(at) == static_cast<A>(a[r][k]));
        }
      }
      fence_async_proxy();
    }
    sync_block();
    Sum sums[kColumns / 2];
    wgmma_fence(sums);
    for (int i = 0; i < 4; ++i) {
      const uint64_t da = wgmma_advance(wgmma_descriptor(shared), 32 * i);
      const uint64_t db = wgmma_advance(wgmma_descriptor(shared + 64 * 128), 32 * i);
      if (thread_index() == 0) {
        CHECK(da == descriptor<kDepth>(left, i, 0));
        CHECK(db == descriptor<kDepth>(right, i, 64 * 128));
      }
      wgmma(Ours{}, sums, da, db, i > 0);
    }
    wgmma_commit();
    wgmma_wait<0>(sums);
    for (int v = 0; v < kColumns / 2; ++v) {
      const int index = typename Traits::CLayout{}(thread_index(), v);
      CHECK(wgmma_row(v) == index % 64 && wgmma_column(v) == index / 64);
      result[index % 64][index / 64] = sums[v];
    }
  });
  for (int r = 0; r < 64; ++r) {
    for (int n = 0; n < kColumns; ++n) {
      double sum = 0;
      for (int k = 0; k < kBoxDepth; ++k) sum += static_cast<double>(a[r][k]) * b[n][k];
      CHECK(sum == static_cast<double>(result[r][n]));
    }
  }
}

template <typename Operation>
using TraitsOf = cute::MMA_Traits<Operation>;

}  // namespace

int main() {
  using cute::bfloat16_t, cute::half_t;
  check<TraitsOf<cute::SM90_64x64x16_F32F16F16_SS<kMajor, kMajor>>, Half, half_t, half_t, float, 64, 16>();
  check<TraitsOf<cute::SM90_64x128x16_F32F16F16_SS<kMajor, kMajor>>, Half, half_t, half_t, float, 128, 16>();
  check<TraitsOf<cute::SM90_64x256x16_F32BF16BF16_SS<kMajor, kMajor>>, Bfloat, bfloat16_t, bfloat16_t, float, 256,
        16>();
  check<TraitsOf<cute::SM90_64x128x32_S32U8S8_SS_TN>, uint8_t, uint8_t, int8_t, int32_t, 128, 32>();
  check<TraitsOf<cute::SM90_64x256x32_S32U8S8_SS_TN>, uint8_t, uint8_t, int8_t, int32_t, 256, 32>();
  std::puts("wgmma agrees with CuTe");
  return 0;
}
