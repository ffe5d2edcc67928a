// Keys sort as results are promised to: higher score, then lower ordinal, NaN last.
#include "topk_support.hpp"

using namespace fct::cuda::topk;
using namespace fct::cuda::topk::testing;

int main() {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kTiny = std::numeric_limits<float>::denorm_min();
  constexpr float kMax = std::numeric_limits<float>::max();
  const float scores[] = {kInf,  kMax,   1.5f,  1.0f,  0x1p-126f, kTiny, 0.0f,
                          -0.0f, -kTiny, -1.0f, -kMax, -kInf,     kNan,  -kNan};
  const uint32_t ordinals[] = {0, 1, 2, 0x7fffffff, 0x80000000, 0xfffffffe};
  for (float a : scores) {
    for (float b : scores) {
      for (uint32_t i : ordinals) {
        CHECK(key_of(a, i) != kNoKey);
        CHECK(ordinal_of(key_of(a, i)) == i);
        const float back = score_of(key_of(a, i));
        CHECK(std::isnan(a) ? std::isnan(back) : back == a);
        for (uint32_t j : ordinals) {
          const bool before = comes_before({a, static_cast<int64_t>(i)}, {b, static_cast<int64_t>(j)});
          CHECK((key_of(a, i) > key_of(b, j)) == before);
        }
      }
    }
  }
  CHECK(std::isnan(score_of(kNoKey)));
  // Any bits.
  std::mt19937 random(1);
  for (int i = 0; i < 100'000; ++i) {
    const uint32_t a = static_cast<uint32_t>(random()), b = static_cast<uint32_t>(random());
    const Result x{__builtin_bit_cast(float, a), 5}, y{__builtin_bit_cast(float, b), 6};
    CHECK((key_of(x.score, 5) > key_of(y.score, 6)) == comes_before(x, y));
  }
  return 0;
}
