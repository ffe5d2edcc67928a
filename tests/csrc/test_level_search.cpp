// LevelSearch against a plain walk: spread out, crowded, infinite, subnormal and single levels.
#include "core/level_search.hpp"

#include <algorithm>
#include <limits>

#include "check.hpp"

using fct::LevelSearch;
using fct::testing::fill_normal;
using fct::testing::Guarded;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int64_t walk(const Guarded<float>& levels, float score) {
  int64_t i = 0;
  while (levels[i] > score) ++i;
  return i;
}

// The search is kept between calls, as the kernel keeps it between queries.
void check(LevelSearch& search, std::vector<float> values) {
  std::sort(values.begin(), values.end(), std::greater<>());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  const int64_t count = static_cast<int64_t>(values.size());
  Guarded<float> levels(count);
  std::copy(values.begin(), values.end(), levels.data());
  search.prepare(levels.data(), count);
  const float lowest = levels[count - 1];
  for (int64_t i = 0; i < count; ++i) {
    const float next = i + 1 < count ? levels[i + 1] : lowest;
    for (float score : {levels[i], std::nextafter(levels[i], kInfinity), std::nextafter(levels[i], -kInfinity),
                        levels[i] / 2 + next / 2, levels[i] * 3.0f, kInfinity, std::numeric_limits<float>::max()}) {
      if (score >= lowest) CHECK(search(score) == walk(levels, score));
    }
  }
}

}  // namespace

int main() {
  LevelSearch search;
  for (int64_t count : {1, 2, 3, 63, 64, 500, 4000}) {
    std::vector<float> values(static_cast<std::size_t>(count));
    fill_normal(values.data(), count, static_cast<uint32_t>(count));
    check(search, values);
    for (float scale : {1e-44f, 1e-30f, 1e38f}) {
      std::vector<float> scaled = values;
      for (float& value : scaled) value *= scale;  // 1e38 overflows to infinities
      check(search, scaled);
    }
    for (float outlier : {1e30f, -1e30f, kInfinity, -kInfinity}) {  // all others in one cell
      std::vector<float> crowded = values;
      crowded.push_back(outlier);
      check(search, crowded);
    }
  }
  check(search, {kInfinity, -kInfinity});
  check(search, {0.0f, -0.0f});
  check(search, {std::numeric_limits<float>::max(), std::numeric_limits<float>::lowest(), 0.0f});
  check(search, {1.0f, std::nextafter(1.0f, 2.0f)});
  return 0;
}
