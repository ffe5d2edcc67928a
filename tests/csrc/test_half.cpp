// float16 and bfloat16: every 16-bit pattern survives the round trip, and rounding is half to even.
#include "core/half.hpp"

#include <cstring>

#include "check.hpp"

using namespace fct;

namespace {

// The nearest float16 by search over all patterns: slow, and obviously right.
uint16_t nearest_half(float value) {
  uint16_t best = 0;
  double best_error = INFINITY;
  for (uint32_t pattern = 0; pattern < 0x7c00; ++pattern) {
    const double error = std::fabs(static_cast<double>(float_from_half(static_cast<uint16_t>(pattern))) -
                                   std::fabs(static_cast<double>(value)));
    if (error < best_error || (error == best_error && pattern % 2 == 0)) {
      best = static_cast<uint16_t>(pattern);
      best_error = error;
    }
  }
  return static_cast<uint16_t>(best | (std::signbit(value) ? 0x8000 : 0));
}

}  // namespace

int main() {
  for (uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    const uint16_t bits = static_cast<uint16_t>(pattern);
    const float half = float_from_half(bits);
    if (std::isnan(half)) {
      CHECK(std::isnan(float_from_half(half_from_float(half))));
    } else {
      CHECK(half_from_float(half) == bits);
    }
    const float bfloat = float_from_bfloat(bits);
    if (std::isnan(bfloat)) {
      CHECK(std::isnan(float_from_bfloat(bfloat_from_float(bfloat))));
    } else {
      CHECK(bfloat_from_float(bfloat) == bits);
    }
  }
  CHECK(float_from_half(0x3c00) == 1.0f);
  CHECK(float_from_half(0x0001) == 0x1p-24f);
  CHECK(half_from_float(65519.0f) == 0x7bff);
  CHECK(half_from_float(65520.0f) == 0x7c00);
  CHECK(half_from_float(INFINITY) == 0x7c00);
  CHECK(half_from_float(0x1p-25f) == 0x0000);  // a tie, to even
  CHECK(half_from_float(0x1.8p-24f) == 0x0002);
  CHECK(bfloat_from_float(0x1.01p0f) == 0x3f80);  // a tie, to even
  CHECK(bfloat_from_float(0x1.03p0f) == 0x3f82);
  std::mt19937 generator(1);
  std::uniform_int_distribution<uint32_t> any;
  for (int i = 0; i < 200; ++i) {
    const float value = static_cast<float>(
        std::ldexp(static_cast<double>(any(generator)) - 2e9, static_cast<int>(any(generator) % 40) - 50));
    if (std::fabs(value) < 65504.0f) CHECK(half_from_float(value) == nearest_half(value));
  }
  return 0;
}
