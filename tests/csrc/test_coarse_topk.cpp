// topk_coarse gives the answer of topk bit for bit: close scores, ties, extremes, NaN, pieces, threads, every level.
#include "core/coarse_topk.hpp"

#include <cmath>
#include <cstring>
#include <functional>

#include "check.hpp"

using namespace fct;
using fct::testing::fill_normal;
using fct::testing::Guarded;

namespace {

MatrixView view(const float* data, int64_t rows, int64_t cols) {
  return {reinterpret_cast<const unsigned char*>(data), Dtype::f32, rows, cols, cols};
}

struct Case {
  int64_t queries, rows, dim, k;
  // Changes rows of the standard normal distribution; null leaves them.
  std::function<void(Guarded<float>& queries, Guarded<float>& rows)> change;
};

void same_answer(CpuLevel level, Metric metric, const Case& c, int threads) {
  Guarded<float> q(c.queries * c.dim), g(c.rows * c.dim);
  fill_normal(q.data(), c.queries * c.dim, 1);
  fill_normal(g.data(), c.rows * c.dim, 2);
  if (c.change) c.change(q, g);
  const int64_t results = c.queries * c.k;
  Guarded<float> scores(results), again(results);
  Guarded<int64_t> ids(results), again_ids(results);
  TopkCall call{.queries = view(q.data(), c.queries, c.dim),
                .gallery = view(g.data(), c.rows, c.dim),
                .metric = metric,
                .k = c.k,
                .first_id = 7,
                .scores = scores.data(),
                .ids = ids.data(),
                .threads = threads};
  topk(level, call);
  const auto check_same = [&] {
    CHECK(std::memcmp(ids.data(), again_ids.data(), static_cast<std::size_t>(results) * sizeof(int64_t)) == 0);
    for (int64_t i = 0; i < results; ++i)
      CHECK(std::memcmp(&scores[i], &again[i], sizeof(float)) == 0 || (std::isnan(scores[i]) && std::isnan(again[i])));
  };
  const auto search = [&](int64_t first, int64_t rows) {
    call.gallery = view(g.data() + first * c.dim, rows, c.dim);
    call.first_id = 7 + first;
    Guarded<unsigned char> bytes(coarse_size(rows, c.dim));
    pack_coarse(level, call.gallery, metric, bytes.data(), threads);
    topk_coarse(level, call, view_coarse(bytes.data(), rows, c.dim));
  };
  call.scores = again.data();
  call.ids = again_ids.data();
  search(0, c.rows);
  check_same();
  // In two pieces, the second carrying on the first.
  const int64_t cut = std::max(c.k, c.rows / 3);
  search(0, cut);
  call.seeded = true;
  if (cut < c.rows) search(cut, c.rows - cut);
  check_same();
}

void round_to_integers(Guarded<float>& queries, Guarded<float>& rows) {
  for (Guarded<float>* values : {&queries, &rows}) {
    for (int64_t i = 0; i < values->size(); ++i) (*values)[i] = std::round((*values)[i]);
  }
}

std::vector<Case> cases() {
  constexpr int64_t kDim = 24;
  // Rows around one point, nearer to each other than int8 can tell.
  const auto crowd = [](Guarded<float>&, Guarded<float>& rows) {
    for (int64_t i = kDim; i < rows.size(); ++i) rows[i] = rows[i % kDim] + 1e-3f * rows[i];
  };
  const auto few_crowds = [](Guarded<float>& queries, Guarded<float>& rows) {
    for (int64_t i = 0; i < rows.size() / 30; ++i) rows[i] = queries[i % kDim] + 1e-3f * rows[i];
  };
  const auto heavy_tails = [](Guarded<float>&, Guarded<float>& rows) {
    for (int64_t i = 0; i < rows.size(); ++i) rows[i] = std::pow(rows[i], 5.0f);
  };
  const auto lengths = [](Guarded<float>&, Guarded<float>& rows) {
    for (int64_t i = 0; i < rows.size(); ++i) rows[i] *= std::pow(10.0f, static_cast<float>(i / kDim % 9) - 4.0f);
  };
  const auto scaled = [](float query, float row) {
    return [=](Guarded<float>& queries, Guarded<float>& rows) {
      for (int64_t i = 0; i < queries.size(); ++i) queries[i] *= query;
      for (int64_t i = 0; i < rows.size(); ++i) rows[i] *= row;
    };
  };
  const auto zeros = [](Guarded<float>& queries, Guarded<float>& rows) {
    for (int64_t i = 0; i < kDim; ++i) queries[i] = 0.0f;
    for (int64_t i = 0; i < rows.size() / 2; ++i) rows[i] = 0.0f;
  };
  const auto equal = [](Guarded<float>&, Guarded<float>& rows) {
    for (int64_t i = 0; i < rows.size(); ++i) rows[i] = rows[i % kDim];
  };
  const auto bad_rows = [](Guarded<float>& queries, Guarded<float>& rows) {
    for (int64_t i = 0; i < kDim; ++i) queries[i] = i == 0 ? 127.0f : 0.0f;  // a query that int8 holds without loss
    rows[3 * kDim] = NAN;
    rows[rows.size() - 1] = INFINITY;
  };
  const auto bad_first_piece = [](Guarded<float>&, Guarded<float>& rows) {
    for (int64_t i = 0; i < rows.size() / 3; ++i) rows[i] = NAN;
  };
  const auto bad_query = [](Guarded<float>& queries, Guarded<float>&) { queries[2 * kDim] = NAN; };
  return {{1, 1, 1, 1, {}},
          {3, 257, 1, 5, {}},
          {60, 6000, kDim, 10, {}},
          {5, 9000, 129, 100, {}},
          {2, 300, 700, 300, {}},
          {4, 5000, kDim, 2048, {}},
          {50, 3000, 5, 7, round_to_integers},
          {7, 3000, kDim, 10, crowd},
          {7, 6000, kDim, 10, few_crowds},
          {7, 6000, kDim, 10, heavy_tails},
          {7, 6000, kDim, 10, lengths},
          {5, 3000, kDim, 10, scaled(1e-20f, 1e-20f)},
          {5, 3000, kDim, 10, scaled(1e18f, 1e18f)},
          {5, 3000, kDim, 10, scaled(1e-38f, 1.0f)},
          {5, 3000, kDim, 10, scaled(1.0f, 1e-39f)},
          {3, 3000, kDim, 10, zeros},
          {3, 3000, kDim, 40, equal},
          {3, 3000, kDim, 10, bad_rows},
          {3, 40, kDim, 40, bad_rows},
          {3, 3000, kDim, 10, bad_first_piece},
          {3, 50, kDim, 40, bad_first_piece},  // NaN is among the best
          {5, 3000, kDim, 10, bad_query}};
}

// What a score may be off by covers what it is off by, and not much more: else most rows would be looked at twice.
void loss_is_measured() {
  constexpr int64_t kDim = 130, kQuads = 33;
  Guarded<float> x(kDim);
  Guarded<unsigned char> q(4 * kQuads);
  for (int offset : {0, 128}) {
    fill_normal(x.data(), kDim, 5);
    const float scale = quantize_row(x.data(), kDim, kQuads, offset, q.data());
    double lost = 0.0, norm = 0.0;
    for (int64_t k = 0; k < kDim; ++k) {
      const int value = offset == 0 ? static_cast<int8_t>(q[k]) : q[k] - offset;
      CHECK(std::abs(x[k] / scale - static_cast<float>(value)) < 0.5001f);
      lost += std::pow(static_cast<double>(x[k]) - static_cast<double>(scale) * value, 2);
      norm += std::pow(static_cast<double>(x[k]), 2);
    }
    for (int64_t k = kDim; k < 4 * kQuads; ++k) CHECK(q[k] == offset);
    const RowLoss loss = loss_of(x.data(), kDim, scale, offset, q.data());
    CHECK(loss.norm >= std::sqrt(norm) && loss.norm < 1.0001 * std::sqrt(norm));
    CHECK(loss.residual >= std::sqrt(lost) && loss.residual < 1.0001 * std::sqrt(lost));
    CHECK(loss.residual < 0.01 * loss.norm);
  }
}

}  // namespace

int main() {
  loss_is_measured();
  for (CpuLevel level : usable_levels()) {
    for (Metric metric : {Metric::cosine, Metric::inner_product}) {
      for (const Case& c : cases()) {
        same_answer(level, metric, c, 1);
        same_answer(level, metric, c, 3);
      }
    }
  }
  return 0;
}
