// topk of every level against a full sort of the same scores: ties, NaN, k = n, pieces, threads.
#include "core/topk.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "check.hpp"

using namespace fct;
using fct::testing::fill_normal;
using fct::testing::Guarded;

namespace {

MatrixView view(const float* data, int64_t rows, int64_t cols) {
  return {reinterpret_cast<const unsigned char*>(data), Dtype::f32, rows, cols, cols};
}

void check_case(CpuLevel level, int64_t queries, int64_t rows, int64_t dim, int64_t k, bool coarse, bool with_nan,
                int threads) {
  Guarded<float> q(queries * dim), g(rows * dim);
  fill_normal(q.data(), queries * dim, 1);
  fill_normal(g.data(), rows * dim, 2);
  if (coarse) {  // small integers: exact scores with many ties
    for (int64_t i = 0; i < queries * dim; ++i) q[i] = std::round(q[i]);
    for (int64_t i = 0; i < rows * dim; ++i) g[i] = std::round(g[i]);
  }
  if (with_nan) {
    for (int64_t r = 0; r < rows; r += 3) g[r * dim] = NAN;
  }
  Guarded<float> scores(queries * k);
  Guarded<int64_t> ids(queries * k);
  TopkCall call{.queries = view(q.data(), queries, dim),
                .gallery = view(g.data(), rows, dim),
                .metric = Metric::inner_product,
                .k = k,
                .scores = scores.data(),
                .ids = ids.data(),
                .threads = threads};
  topk(level, call);
  for (int64_t i = 0; i < queries; ++i) {
    std::vector<double> exact(static_cast<std::size_t>(rows));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < dim; ++c)
        exact[r] += static_cast<double>(q[i * dim + c]) * static_cast<double>(g[r * dim + c]);
    }
    std::vector<int64_t> order(static_cast<std::size_t>(rows));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      if (std::isnan(exact[a]) || std::isnan(exact[b])) return !std::isnan(exact[a]) && std::isnan(exact[b]);
      return exact[a] > exact[b];
    });
    for (int64_t j = 0; j < k; ++j) {
      const float score = scores[i * k + j];
      if (coarse || with_nan) {
        if (!with_nan || coarse) CHECK(ids[i * k + j] == order[j]);
        CHECK(std::isnan(score) == std::isnan(exact[order[j]]));
      }
      if (!std::isnan(score)) CHECK(std::fabs(score - exact[order[j]]) < 1e-4);
    }
  }
  // In three pieces, each carrying on the last: the same bits.
  Guarded<float> pieced(queries * k);
  Guarded<int64_t> pieced_ids(queries * k);
  call.scores = pieced.data();
  call.ids = pieced_ids.data();
  const int64_t cuts[] = {0, std::max(k, rows / 2), std::max(k, rows * 2 / 3), rows};
  for (int p = 0; p < 3; ++p) {
    call.gallery = view(g.data() + cuts[p] * dim, cuts[p + 1] - cuts[p], dim);
    call.first_id = cuts[p];
    call.seeded = p > 0;
    topk(level, call);
  }
  CHECK(std::memcmp(pieced_ids.data(), ids.data(), static_cast<std::size_t>(queries * k) * 8) == 0);
  for (int64_t i = 0; i < queries * k; ++i)
    CHECK(pieced[i] == scores[i] || (std::isnan(pieced[i]) && std::isnan(scores[i])));
}

// The gallery as rows, as rows of a wider array, as panels, and each query alone: the same bits.
void one_answer_whatever_the_path(CpuLevel level, Metric metric, int64_t rows, int64_t dim) {
  constexpr int64_t kQueries = 5, kBest = 20, kGap = 3;
  const int64_t stride = dim + kGap;
  Guarded<float> q(kQueries * dim), g(rows * dim), wide((rows - 1) * stride + dim);
  fill_normal(q.data(), kQueries * dim, 1);
  fill_normal(g.data(), rows * dim, 2);
  for (int64_t r = 0; r < rows; ++r) std::copy_n(g.data() + r * dim, dim, wide.data() + r * stride);
  Guarded<float> panels(panels_of(rows) * kPanelWidth * dim);
  pack_gallery(level, view(g.data(), rows, dim), metric, panels.data(), 2);

  Guarded<float> scores(kQueries * kBest), again(kQueries * kBest);
  Guarded<int64_t> ids(kQueries * kBest), again_ids(kQueries * kBest);
  TopkCall call{.queries = view(q.data(), kQueries, dim),
                .gallery = view(g.data(), rows, dim),
                .metric = metric,
                .k = kBest,
                .scores = scores.data(),
                .ids = ids.data(),
                .threads = 2};
  topk(level, call);
  const auto check_same = [&] {
    CHECK(std::memcmp(scores.data(), again.data(), kQueries * kBest * sizeof(float)) == 0);
    CHECK(std::memcmp(ids.data(), again_ids.data(), kQueries * kBest * sizeof(int64_t)) == 0);
  };
  call.scores = again.data();
  call.ids = again_ids.data();
  call.panels = panels.data();
  topk(level, call);
  check_same();
  call.panels = nullptr;
  call.gallery = view(wide.data(), rows, dim);
  call.gallery.row_stride = stride;
  topk(level, call);
  check_same();
  for (int64_t i = 0; i < kQueries; ++i) {
    call.queries = view(q.data() + i * dim, 1, dim);
    call.scores = again.data() + i * kBest;
    call.ids = again_ids.data() + i * kBest;
    topk(level, call);
  }
  check_same();
}

}  // namespace

int main() {
  for (CpuLevel level : usable_levels()) {
    for (Metric metric : {Metric::cosine, Metric::inner_product, Metric::l2}) {
      one_answer_whatever_the_path(level, metric, 1009, 37);
      one_answer_whatever_the_path(level, metric, 272, 300);
    }
    for (int threads : {1, 3}) {
      check_case(level, 3, 5000, 16, 10, false, false, threads);
      check_case(level, 50, 700, 5, 1, true, false, threads);
      check_case(level, 2, 9000, 8, 300, true, false, threads);
      check_case(level, 2, 300, 3, 300, true, false, threads);
      check_case(level, 2, 300, 3, 250, true, true, threads);
      check_case(level, 1, 9000, 4, 10, true, true, threads);
      check_case(level, 1, 1, 1, 1, true, false, threads);
    }
  }
  return 0;
}
