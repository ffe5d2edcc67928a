// The primitives and the shim under them: fragments against plain loops, and that the shim sees what it promises to
// see.
#include <cstring>
#include <string>
#include <type_traits>

#include "check.hpp"
#include "cuda/simt/simt.hpp"

using namespace fct::cuda;
using fct::shim::Counters;
using fct::shim::Fault;
using fct::shim::launch;

namespace {

std::string fault_of(int threads, int64_t shared_bytes, uint32_t seed, const fct::shim::Body& body) {
  try {
    launch({.blocks = 1, .threads = threads, .shared_bytes = shared_bytes, .seed = seed}, body);
  } catch (const Fault& fault) {
    return fault.what();
  }
  return "";
}

bool starts_with(const std::string& text, const char* start) { return text.rfind(start, 0) == 0; }

// C = A W^T for one tile, through ldmatrix and mma, against a loop in float64.
template <typename Element>
void check_mma() {
  float a[16][16], w[8][16], c[16][8];
  fct::testing::fill_normal(&a[0][0], 256, 1);
  fct::testing::fill_normal(&w[0][0], 128, 2);
  fct::testing::fill_normal(&c[0][0], 128, 3);
  Element a16[16][16], w16[8][16];
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) a16[i][k] = narrowed<Element>(a[i][k]);
  }
  for (int i = 0; i < 8; ++i) {
    for (int k = 0; k < 16; ++k) w16[i][k] = narrowed<Element>(w[i][k]);
  }
  float result[16][8];
  launch({.blocks = 1, .threads = 32, .shared_bytes = 768, .seed = 4}, [&](unsigned char* shared) {
    if (thread_index() == 0) {
      std::memcpy(shared, a16, 512);
      std::memcpy(shared + 512, w16, 256);
    }
    sync_warp();
    const int lane = lane_index();
    uint32_t fa[4], fb[4];
    load_matrix_x4(fa, shared + lane % 16 * 32 + lane / 16 * 16);
    // Matrices 0 and 1 are the two halves of W's depth; 2 and 3 repeat them.
    load_matrix_x4(fb, shared + 512 + lane % 8 * 32 + lane / 8 % 2 * 16);
    CHECK(fb[0] == fb[2] && fb[1] == fb[3]);
    float sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    mma_16816(Element{}, sums, fa, fb[0], fb[1]);
    for (int i = 0; i < 4; ++i) result[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = sums[i];
  });
  for (int i = 0; i < 16; ++i) {
    for (int n = 0; n < 8; ++n) {
      double sum = c[i][n];
      for (int k = 0; k < 16; ++k) sum += static_cast<double>(widen(a16[i][k])) * widen(w16[n][k]);
      CHECK(std::fabs(sum - result[i][n]) < 1e-5);
    }
  }
}

// The same of bytes, exact; A of unsigned ones, or of signed ones, as pairs in the place of 16-bit elements.
template <typename Byte>
void check_mma_bytes() {
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
  launch({.blocks = 1, .threads = 32, .shared_bytes = 768, .seed = 4}, [&](unsigned char* shared) {
    if (thread_index() == 0) {
      std::memcpy(shared, a, 512);
      std::memcpy(shared + 512, w, 256);
    }
    sync_warp();
    const int lane = lane_index();
    uint32_t fa[4], fb[4];
    load_matrix_x4(fa, shared + lane % 16 * 32 + lane / 16 * 16);
    load_matrix_x4(fb, shared + 512 + lane % 8 * 32 + lane / 8 % 2 * 16);
    int32_t sums[4] = {1, 20, 300, 4000};
    if constexpr (std::is_signed_v<Byte>) {
      mma_16816(BytePair{}, sums, fa, fb[0], fb[1]);
    } else {
      mma_16832(sums, fa, fb[0], fb[1]);
    }
    for (int i = 0; i < 4; ++i) result[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = sums[i];
  });
  const int32_t first[2][2] = {{1, 20}, {300, 4000}};
  for (int i = 0; i < 16; ++i) {
    for (int n = 0; n < 8; ++n) {
      int32_t sum = first[i / 8][n % 2];
      for (int k = 0; k < 32; ++k) sum += a[i][k] * w[n][k];
      CHECK(sum == result[i][n]);
    }
  }
}

void check_warp() {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    launch({.blocks = 3, .threads = 64, .shared_bytes = 0, .seed = seed}, [](unsigned char*) {
      const int lane = lane_index();
      CHECK(shuffle(lane * 10 + warp_index(), 7) == 70 + warp_index());
      CHECK(shuffle_xor(static_cast<double>(lane), 3) == (lane ^ 3));
      CHECK(ballot(lane % 3 == 0) == 0x49249249u);
      CHECK(reduce_warp(lane, [](int x, int y) { return x + y; }) == 496);
      CHECK(count_bits(0xf0u & lanes_below()) == std::min(std::max(lane - 4, 0), 4));
      CHECK(lowest_bit(0x50u) == 4 && lowest_bit(0) == -1);
    });
  }
}

void check_grid() {
  std::vector<int> seen(7 * 96, 0);
  uint32_t total = 0;
  launch({.blocks = 7, .threads = 96, .shared_bytes = 4, .seed = 5}, [&](unsigned char*) {
    ++seen[static_cast<std::size_t>(block_index() * block_threads() + thread_index())];
    CHECK(block_count() == 7);
    atomic_add(&total, 2);
  });
  for (int count : seen) CHECK(count == 1);
  CHECK(total == 7 * 96 * 2);
}

// Each thread writes its neighbour's word: without the barrier between, some order reads it too early.
bool neighbours_agree(bool with_barrier, uint32_t seed) {
  bool agree = true;
  launch({.blocks = 1, .threads = 64, .shared_bytes = 64 * 4, .seed = seed}, [&](unsigned char* shared) {
    uint32_t* const words = reinterpret_cast<uint32_t*>(shared);
    words[(thread_index() + 1) % 64] = 1;
    if (with_barrier) sync_block();
    agree &= words[thread_index()] == 1;
  });
  return agree;
}

// One copy of 16 bytes, read after a wait (or too early).
bool copy_arrives(int pending, int bytes, uint32_t seed) {
  alignas(16) unsigned char source[16];
  std::memset(source, 7, 16);
  bool arrives = true;
  launch({.blocks = 1, .threads = 32, .shared_bytes = 32 * 16, .seed = seed}, [&](unsigned char* shared) {
    unsigned char* const mine = shared + lane_index() * 16;
    copy_async_16(mine, source, bytes);
    copy_async_commit();
    if (pending == 0) copy_async_wait<0>();
    if (pending == 1) copy_async_wait<1>();
    for (int i = 0; i < 16; ++i) arrives &= mine[i] == (i < bytes ? 7 : 0);
    copy_async_wait<0>();
  });
  return arrives;
}

template <typename Check>
int failures(Check check) {
  int failed = 0;
  for (uint32_t seed = 0; seed < 30; ++seed) failed += !check(seed);
  return failed;
}

void check_what_the_shim_sees() {
  CHECK(failures([](uint32_t seed) { return neighbours_agree(true, seed); }) == 0);
  CHECK(failures([](uint32_t seed) { return neighbours_agree(false, seed); }) > 20);
  for (int bytes : {0, 2, 10, 16}) CHECK(failures([=](uint32_t seed) { return copy_arrives(0, bytes, seed); }) == 0);
  CHECK(failures([](uint32_t seed) { return copy_arrives(1, 16, seed); }) > 10);

  const auto fault = [](const fct::shim::Body& body) { return fault_of(64, 1024, 1, body); };
  CHECK(starts_with(fault([](unsigned char*) {
                      if (thread_index() != 5) sync_block();
                    }),
                    "deadlock: 63 threads"));
  CHECK(starts_with(fault([](unsigned char*) {
                      if (lane_index() < 8) {
                        sync_warp();
                      } else {
                        ballot(true);
                      }
                    }),
                    "lanes of one warp are at different collectives"));
  alignas(16) static unsigned char source[32] = {};
  CHECK(starts_with(fault([](unsigned char* shared) { copy_async_16(shared + 1016, source, 16); }),
                    "cp.async at byte 1016 of 1024"));
  CHECK(starts_with(fault([](unsigned char* shared) { copy_async_16(shared, source + 2, 16); }),
                    "cp.async reads an address that is no multiple of 16"));
  CHECK(starts_with(fault([](unsigned char* shared) {
                      uint32_t fragment[4];
                      load_matrix_x4(fragment, shared + 8);
                    }),
                    "ldmatrix at byte 8"));
  CHECK(failures([](uint32_t seed) {
          return fault_of(32, 1024, seed,
                          [](unsigned char* shared) {
                            copy_async_16(shared + lane_index() * 16, source, 16);
                            copy_async_commit();
                          })
              .empty();
        }) > 10);
}

// Eight rows 128 bytes apart share their banks; swizzled they do not.
void check_bank_conflicts() {
  const auto conflicts = [](bool swizzled) {
    const Counters counters =
        launch({.blocks = 1, .threads = 32, .shared_bytes = 32 * 128, .seed = 1}, [swizzled](unsigned char* shared) {
          const int row = lane_index();
          uint32_t fragment[4];
          load_matrix_x4(fragment, shared + row * 128 + (swizzled ? row % 8 * 16 : 0));
        });
    CHECK(counters.ldmatrix == 1);
    return counters.ldmatrix_conflicts;
  };
  CHECK(conflicts(false) == 4 * 7);
  CHECK(conflicts(true) == 0);
}

void check_numbers() {
  CHECK(is_finite(1.0f) && !is_finite(INFINITY) && !is_finite(NAN));
  CHECK(is_finite(narrowed<Half>(65504.0f)) && !is_finite(narrowed<Half>(65520.0f)));
  CHECK(is_finite(narrowed<Bfloat>(3e38f)) && !is_finite(narrowed<Bfloat>(NAN)));
  CHECK(widen(narrowed<Half>(0.333251953125f)) == 0.333251953125f);
}

}  // namespace

int main() {
  check_mma<Half>();
  check_mma<Bfloat>();
  check_mma_bytes<uint8_t>();
  check_mma_bytes<int8_t>();
  check_warp();
  check_grid();
  check_what_the_shim_sees();
  check_bank_conflicts();
  check_numbers();
  return 0;
}
