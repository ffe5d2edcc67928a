// rank_curve of every level: each point against a full sort of the mixed gallery's exact scores, and against rank over
// that gallery to the last bit.
#include "core/rank_curve.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "check.hpp"

using namespace fct;
using fct::testing::fill_normal;
using fct::testing::Guarded;

namespace {

struct Case {
  int64_t queries;
  int64_t rows;
  int64_t dim;
  int32_t points;
  int64_t classes;
  bool exclude_self;
  bool with_nan;
  bool coarse;  // small integers: exact scores with many ties
};

MatrixView view(const float* data, int64_t rows, int64_t cols) {
  return {reinterpret_cast<const unsigned char*>(data), Dtype::f32, rows, cols, cols};
}

// By the book: sort by score and row; a block of equal scores has one precision, that at its end.
void full_sort(const std::vector<double>& scores, const std::vector<bool>& positive, int64_t excluded,
               int64_t* first_rank, double* average_precision) {
  std::vector<int64_t> order;
  for (int64_t r = 0; r < static_cast<int64_t>(scores.size()); ++r) {
    if (r != excluded) order.push_back(r);
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
  *first_rank = 0;
  int64_t found = 0;
  double sum = 0;
  for (std::size_t i = 0; i < order.size();) {
    int64_t in_block = 0;
    const double score = scores[order[i]];
    for (; i < order.size() && scores[order[i]] == score; ++i) {
      if (!positive[order[i]]) continue;
      ++in_block;
      if (*first_rank == 0) *first_rank = static_cast<int64_t>(i) + 1;
    }
    found += in_block;
    sum += static_cast<double>(in_block) * static_cast<double>(found) / static_cast<double>(i);
  }
  *average_precision = found > 0 ? sum / static_cast<double>(found) : 0.0;
}

void check_case(CpuLevel level, const Case& c, Metric metric, int threads, uint32_t seed) {
  Guarded<float> q(c.queries * c.dim), before(c.rows * c.dim), after(c.rows * c.dim), mixed(c.rows * c.dim);
  fill_normal(q.data(), c.queries * c.dim, seed);
  fill_normal(before.data(), c.rows * c.dim, seed + 1);
  fill_normal(after.data(), c.rows * c.dim, seed + 2);
  if (c.coarse) {
    for (int64_t i = 0; i < c.queries * c.dim; ++i) q[i] = std::round(q[i]);
    for (int64_t i = 0; i < c.rows * c.dim; ++i) before[i] = std::round(before[i]);
    for (int64_t i = 0; i < c.rows * c.dim; ++i) after[i] = std::round(after[i]);
  }
  if (c.with_nan) {
    for (int64_t r = 0; r < c.rows; r += 3) before[r * c.dim] = NAN;
    for (int64_t r = 1; r < c.rows; r += 4) after[r * c.dim] = NAN;
  }
  std::mt19937 generator(seed);
  Guarded<int32_t> replaced_at(c.rows);
  for (int64_t r = 0; r < c.rows; ++r) replaced_at[r] = static_cast<int32_t>(generator() % (c.points + 1));

  // Class `classes` has no rows, so its queries are skipped, as are those of class - 1.
  std::vector<int64_t> class_of(static_cast<std::size_t>(c.rows));
  for (int64_t& one : class_of) one = generator() % c.classes;
  Guarded<int64_t> query_classes(c.queries), starts(c.classes + 2), class_rows(c.rows);
  for (int64_t i = 0; i < c.queries; ++i) {
    query_classes[i] = static_cast<int64_t>(generator() % (c.classes + 2)) - 1;
    if (c.exclude_self) query_classes[i] = class_of[i];
  }
  int64_t at = 0;
  for (int64_t one = 0; one <= c.classes; ++one) {
    starts[one] = at;
    for (int64_t r = 0; r < c.rows; ++r) {
      if (class_of[r] == one) class_rows[at++] = r;
    }
  }
  starts[c.classes + 1] = at;
  const Positives positives{.query_classes = query_classes.data(),
                            .class_starts = starts.data(),
                            .class_rows = class_rows.data(),
                            .exclude_self = c.exclude_self};

  Guarded<int64_t> first(c.points * c.queries);
  Guarded<double> precision(c.points * c.queries);
  rank_curve(level, {.queries = view(q.data(), c.queries, c.dim),
                     .before = view(before.data(), c.rows, c.dim),
                     .after = view(after.data(), c.rows, c.dim),
                     .replaced_at = replaced_at.data(),
                     .points = c.points,
                     .metric = metric,
                     .positives = positives,
                     .result = {.first_rank = first.data(), .average_precision = precision.data()},
                     .threads = threads});

  Guarded<int64_t> want_first(c.queries), want_positives(c.queries);
  Guarded<double> want_precision(c.queries);
  for (int32_t p = 0; p < c.points; ++p) {
    for (int64_t r = 0; r < c.rows; ++r) {
      const float* const source = (replaced_at[r] <= p ? after.data() : before.data()) + r * c.dim;
      std::copy_n(source, c.dim, mixed.data() + r * c.dim);
    }
    rank(level, {.queries = view(q.data(), c.queries, c.dim),
                 .gallery = view(mixed.data(), c.rows, c.dim),
                 .metric = metric,
                 .positives = positives,
                 .result = {.first_rank = want_first.data(),
                            .average_precision = want_precision.data(),
                            .positives = want_positives.data()},
                 .threads = 1});
    const std::size_t bytes = static_cast<std::size_t>(c.queries) * 8;
    CHECK(std::memcmp(want_first.data(), first.data() + p * c.queries, bytes) == 0);
    CHECK(std::memcmp(want_precision.data(), precision.data() + p * c.queries, bytes) == 0);
    if (!c.coarse || metric != Metric::inner_product) continue;
    for (int64_t i = 0; i < c.queries; ++i) {
      std::vector<double> scores(static_cast<std::size_t>(c.rows), 0.0);
      std::vector<bool> positive(static_cast<std::size_t>(c.rows));
      for (int64_t r = 0; r < c.rows; ++r) {
        positive[r] = class_of[r] == query_classes[i];
        for (int64_t k = 0; k < c.dim; ++k) scores[r] += static_cast<double>(q[i * c.dim + k]) * mixed[r * c.dim + k];
        if (std::isnan(scores[r])) scores[r] = -INFINITY;
      }
      int64_t rank_by_sort = 0;
      double precision_by_sort = 0;
      full_sort(scores, positive, c.exclude_self ? i : -1, &rank_by_sort, &precision_by_sort);
      CHECK(rank_by_sort == first[p * c.queries + i]);
      CHECK(std::fabs(precision_by_sort - precision[p * c.queries + i]) <= 1e-12);
    }
  }
}

}  // namespace

int main() {
  const Case cases[] = {
      {7, 300, 5, 22, 6, false, false, true},    // many ties
      {7, 300, 5, 22, 6, false, false, false},   //
      {50, 60, 3, 5, 2, true, false, true},      // each query left out of its own ranking
      {49, 131, 17, 4, 30, true, false, false},  // classes of few rows, some alone
      {5, 90, 4, 22, 3, false, true, true},      // NaN among the scores of most positives
      {20, 40, 2, 7, 40, true, true, true},      //
      {1, 1, 1, 1, 1, false, false, true},       // one row, one point
      {1, 1, 1, 3, 1, true, false, true},        // nothing but the query itself
      {3, 5000, 1, 3, 1, false, false, true},    // every row is a positive; more than one span of the filter
      {2, 9000, 8, 22, 500, false, false, true},
  };
  for (CpuLevel level : usable_levels()) {
    uint32_t seed = 0;
    for (const Case& c : cases) {
      for (Metric metric : {Metric::inner_product, Metric::cosine, Metric::l2}) {
        check_case(level, c, metric, 1 + static_cast<int>(seed % 3), seed);
        ++seed;
      }
    }
  }
  return 0;
}
