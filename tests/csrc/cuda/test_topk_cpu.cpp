// One answer on either device: the kernels' results have the bits of the CPU's at its levels with fused multiply-adds.
#include "core/topk.hpp"

#include "topk_support.hpp"

using namespace fct::cuda::topk;
using namespace fct::cuda::topk::testing;
using fct::CpuLevel;
using fct::Dtype;

namespace {

fct::Metric on_cpu(Metric metric) {
  return metric == Metric::l2       ? fct::Metric::l2
         : metric == Metric::cosine ? fct::Metric::cosine
                                    : fct::Metric::inner_product;
}

void check_level(CpuLevel level, Metric metric, int64_t cols, Dtype dtype, int pieces) {
  const int64_t m = 3, n = 700, k = 20;
  const Stored queries = store(normal_values(m * cols, 1), m, cols, dtype);
  std::vector<float> values = normal_values(n * cols, 2);
  for (int64_t r = 0; r < n; r += 90) values[r * cols] = std::numeric_limits<float>::quiet_NaN();
  for (int64_t r = 45; r < n; r += 90) std::fill_n(&values[r * cols], cols, 0.0f);
  const Stored gallery = store(values, n, cols, dtype);
  std::vector<float> scores(static_cast<std::size_t>(m * k));
  std::vector<int64_t> ids(static_cast<std::size_t>(m * k));
  fct::topk(level, {.queries = queries.view,
                    .gallery = gallery.view,
                    .metric = on_cpu(metric),
                    .k = k,
                    .scores = scores.data(),
                    .ids = ids.data()});
  for (int path = 0; path < 3; ++path) {
    for (bool bytes : {false, true}) {
      if (bytes && (path != 2 || metric == Metric::l2)) continue;
      const Case c{.metric = metric, .k = k, .pieces = pieces, .coarse = path > 0, .bytes = bytes, .path = path};
      const Found found = run(c, queries.view, gallery.view);
      CHECK(found.ids == ids);
      CHECK(std::memcmp(found.scores.data(), scores.data(), scores.size() * sizeof(float)) == 0);
    }
  }
}

}  // namespace

int main() {
  for (CpuLevel level : fct::usable_levels()) {
    if (level == CpuLevel::scalar) continue;
    for (Metric metric : {Metric::cosine, Metric::inner_product, Metric::l2}) {
      check_level(level, metric, 130, Dtype::f32, 1);
      check_level(level, metric, 48, Dtype::f16, 2);
      check_level(level, metric, 300, Dtype::bf16, 1);
    }
  }
  return 0;
}
