// The emulated intrinsics where their instructions are not what one would guess, against values worked out by hand.
#include <limits>

#include "check.hpp"
// Last: it takes the word asm away.
#include "immintrin.h"

using emulated::bits_of;
using emulated::float_of;
using fct::testing::Guarded;

namespace {

constexpr float kLeastNormal = std::numeric_limits<float>::min();
constexpr float kSubnormal = kLeastNormal / 2;

__m512 lanes(float first) {
  return emulated::each<__m512>([&](int i) { return i == 0 ? first : 0.0f; });
}

void extremes_give_the_second_of_two_equals_and_of_nan() {
  const auto max = [](float a, float b) { return _mm512_max_ps(lanes(a), lanes(b))[0]; };
  const auto min = [](float a, float b) { return _mm512_min_ps(lanes(a), lanes(b))[0]; };
  CHECK(max(1, 2) == 2 && max(2, 1) == 2 && min(1, 2) == 1 && min(2, 1) == 1);
  CHECK(max(NAN, 1) == 1 && std::isnan(max(1, NAN)) && min(NAN, 1) == 1 && std::isnan(min(1, NAN)));
  CHECK(std::signbit(max(0.0f, -0.0f)) && !std::signbit(max(-0.0f, 0.0f)) && std::signbit(min(0.0f, -0.0f)));
}

void conversions_round_half_to_even_and_saturate() {
  const auto whole = [](float x) {
    return static_cast<int32_t>(reinterpret_cast<emulated::Lanes16>(_mm512_cvtps_epi32(lanes(x)))[0]);
  };
  CHECK(whole(0.5f) == 0 && whole(1.5f) == 2 && whole(2.5f) == 2 && whole(-0.5f) == 0 && whole(-1.5f) == -2);
  CHECK(whole(2147483520.0f) == 2147483520 && whole(-0x1p31f) == INT32_MIN);
  CHECK(whole(0x1p31f) == INT32_MIN && whole(NAN) == INT32_MIN && whole(-INFINITY) == INT32_MIN);
  const auto byte = [](int32_t x) {
    return reinterpret_cast<emulated::Bytes16>(_mm512_cvtusepi32_epi8(_mm512_set1_epi32(x)))[15];
  };
  CHECK(byte(0) == 0 && byte(255) == 255 && byte(256) == 255 && byte(-1) == 255);
  const auto bf16 = [](float x) { return _mm512_cvtneps_pbh(lanes(x))[0]; };
  CHECK(bf16(float_of(0x3f808000)) == 0x3f80 && bf16(float_of(0x3f818000)) == 0x3f82);  // halves
  CHECK(bf16(float_of(0x3f808001)) == 0x3f81 && bf16(float_of(0x7f7fffff)) == 0x7f80);  // the largest float is Inf
  CHECK(bf16(kSubnormal) == 0 && bf16(-kSubnormal) == 0x8000 && bf16(float_of(0x7f800001)) == 0x7fc0);
  const auto half = [](uint16_t x) { return emulated::float_of_half(x); };
  CHECK(half(0x3c00) == 1.0f && half(0xc248) == -3.140625f && half(0x0001) == 0x1p-24f &&
        half(0x83ff) == -1023 * 0x1p-24f);
  CHECK(half(0x7bff) == 65504.0f && half(0xfc00) == -INFINITY && std::isnan(half(0x7c01)) &&
        std::signbit(half(0x8000)));
}

void moves_touch_what_they_say() {
  Guarded<float> x(3);
  x[0] = 1, x[1] = 2, x[2] = 3;
  const __m512 loaded = _mm512_maskz_loadu_ps(7, x.data());
  CHECK(loaded[0] == 1 && loaded[2] == 3 && loaded[3] == 0 && loaded[15] == 0);
  Guarded<uint16_t> y(3);
  y[1] = 77;
  _mm256_mask_storeu_epi16(y.data(), 5, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(loaded)));
  CHECK(y[0] == 0x3f80 && y[1] == 77 && y[2] == 0x4040);

  const __m256 a = {0, 1, 2, 3, 4, 5, 6, 7}, b = {10, 11, 12, 13, 14, 15, 16, 17};
  const auto same = [](__m256 got, __m256 want) {
    for (int i = 0; i < 8; ++i) CHECK(got[i] == want[i]);
  };
  same(_mm256_unpacklo_ps(a, b), __m256{0, 10, 1, 11, 4, 14, 5, 15});
  same(_mm256_unpackhi_ps(a, b), __m256{2, 12, 3, 13, 6, 16, 7, 17});
  same(_mm256_shuffle_ps(a, b, 0x1b), __m256{3, 2, 11, 10, 7, 6, 15, 14});
  const __m128 half = {20, 21, 22, 23};
  same(_mm256_insertf128_ps(a, half, 1), __m256{0, 1, 2, 3, 20, 21, 22, 23});
  CHECK(std::isnan(_mm256_castps128_ps256(half)[4]) && std::isnan(_mm512_castps256_ps512(a)[8]));
  same(_mm512_extractf32x8_ps(_mm512_insertf32x8(_mm512_castps256_ps512(a), b, 1), 1), b);
}

// Each lane's pair: the upper product first, fused, and nothing subnormal goes in or comes out.
void pairs_of_bfloat16() {
  const auto dot = [](float sum, float a_low, float a_high, float b_low, float b_high) {
    const auto pair = [](float low, float high) {
      __m512bh v{};
      v[0] = static_cast<uint16_t>(bits_of(low) >> 16);
      v[1] = static_cast<uint16_t>(bits_of(high) >> 16);
      return v;
    };
    return _mm512_dpbf16_ps(lanes(sum), pair(a_low, a_high), pair(b_low, b_high))[0];
  };
  CHECK(dot(1, 2, 3, 4, 5) == 24);
  CHECK(dot(0, 1, 0x1p60f, 1, 0x1p60f) == 0x1p120f && dot(-0x1p120f, 1, 0x1p60f, 1, 0x1p60f) == 1);  // upper first
  CHECK(dot(-0x1p120f, 0x1p60f, 1, 0x1p60f, 1) == 0);
  CHECK(dot(-0x1p127f, 0x1p100f, 0, 0x1p28f, 0) == 0x1p127f);  // a product beyond float is not rounded to Inf
  CHECK(dot(kSubnormal, 0, 0, 0, 0) == 0 && dot(0, kSubnormal, 0, 1e30f, 0) == 0);
  CHECK(dot(0, 0x1p-70f, 0, 0x1p-60f, 0) == 0 && dot(0, 0x1p-70f, 0, 0x1p-56f, 0) == kLeastNormal);
}

void quads_of_bytes() {
  const auto quad = [](int a, int b, int c, int d) {
    return _mm512_set1_epi32(static_cast<int32_t>((a & 255u) | (b & 255u) << 8 | (c & 255u) << 16 | (d & 255u) << 24));
  };
  const auto dot = [](int32_t sum, __m512i a, __m512i b) {
    return static_cast<int32_t>(
        reinterpret_cast<emulated::Lanes16>(_mm512_dpbusd_epi32(_mm512_set1_epi32(sum), a, b))[9]);
  };
  CHECK(dot(5, quad(1, 2, 3, 4), quad(10, -20, 30, -40)) == 5 + 10 - 40 + 90 - 160);
  CHECK(dot(0, quad(255, 255, 255, 255), quad(127, 127, 127, 127)) == 129540);  // no saturation at 16 bits
  CHECK(dot(0, quad(255, 255, 255, 255), quad(-128, -128, -128, -128)) == -130560);
  CHECK(dot(INT32_MAX, quad(1, 0, 0, 0), quad(1, 0, 0, 0)) == INT32_MIN);  // nor at 32
}

}  // namespace

int main() {
  extremes_give_the_second_of_two_equals_and_of_nan();
  conversions_round_half_to_even_and_saturate();
  moves_touch_what_they_say();
  pairs_of_bfloat16();
  quads_of_bytes();
  const __m512d v = {1e16, 1, -1e16, 1, 1, 0, 0, 0};
  CHECK(_mm512_reduce_add_pd(v) == 1 + 1 + 0.0);  // ((v6+v2) + (v4+v0)) + ((v7+v3) + (v5+v1)); 1e16 + 1 is 1e16
  CHECK(_mm512_cmp_ps_mask(lanes(1), lanes(0), _CMP_GT_OQ) == 1 &&
        _mm512_cmp_ps_mask(lanes(NAN), lanes(0), _CMP_GT_OQ) == 0);
  CHECK(_mm512_fnmadd_ps(lanes(3), lanes(2), lanes(10))[0] == 4);
  return 0;
}
