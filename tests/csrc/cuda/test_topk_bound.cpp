// The claim of bound.hpp that every proof rests on: no exact score is above what its coarse score allows. Rows are made
// so that the error is near its worst: all roundings one way, all terms of one sign, norms from tiny to huge.
#include "topk_support.hpp"

using namespace fct::cuda;
using namespace fct::cuda::topk;
using namespace fct::cuda::topk::testing;
using fct::Dtype;

namespace {

double g_tightest = 0.0;  // the largest share of the allowance that was used
double g_tightest_in_bytes = 0.0;

template <typename Operand>
double error_of(int cols, int rounded_sides) {
  if constexpr (std::is_same_v<Operand, BytePair>)
    return relative_error_of_bytes(cols);
  else
    return relative_error(cols, rounding_of(Operand{}), rounded_sides);
}

// What int8 may lose of each row, relative to it: half a step of 1/127 of the largest element in every column.
std::vector<double> most_lost(const Stored& rows) {
  std::vector<double> lost;
  const int64_t cols = rows.view.cols;
  for (int64_t r = 0; r < rows.view.rows; ++r) {
    double largest = 0.0, squares = 0.0;
    for (int64_t c = 0; c < cols; ++c) {
      const double x = static_cast<double>(rows.values[r * cols + c]);
      largest = std::max(largest, std::fabs(x));
      squares += x * x;
    }
    lost.push_back(squares > 0.0 ? largest * std::sqrt(static_cast<double>(cols) / squares) / 254.0 : 0.0);
  }
  return lost;
}

template <Metric metric, typename Source, typename Operand>
void check_bound(const Stored& queries, const Stored& gallery) {
  constexpr bool kBytes = std::is_same_v<Operand, BytePair>;
  const int32_t cols = static_cast<int32_t>(queries.view.cols);
  const int32_t operand_cols = kBytes ? (cols + 1) / 2 : cols;
  const int64_t stride = operand_stride_of(operand_cols);
  const int64_t n = gallery.view.rows, m = queries.view.rows;
  const int rounded = std::is_same_v<Source, Operand> ? 0 : 2;
  const double error = error_of<Operand>(cols, rounded);
  uint32_t query_loss = 0;
  const auto rows_of = [&](const Stored& stored) {
    return Rows<Source>{reinterpret_cast<const Source*>(stored.view.data), stored.view.rows, stored.view.row_stride,
                        cols};
  };
  const Memory query_operands(m * stride * 2), gallery_operands(n * stride * 2);
  std::vector<QueryFacts> query_facts(static_cast<std::size_t>(m));
  std::vector<RowFacts> row_facts(static_cast<std::size_t>(n));
  std::vector<float> coarse(static_cast<std::size_t>(m * n));
  ShimDevice device(5);
  RowsArgs<Source, Operand> args{};
  args.packed_stride = stride;
  args.error = error;
  args.source = rows_of(queries);
  args.packed = reinterpret_cast<Operand*>(query_operands.data());
  args.query_facts = query_facts.data();
  if (kBytes && metric == Metric::inner_product) args.query_loss = &query_loss;
  device.launch<RowsKernel<metric, Source, Operand>>(2, 0, args);
  args.source = rows_of(gallery);
  args.packed = reinterpret_cast<Operand*>(gallery_operands.data());
  args.query_facts = nullptr;
  args.row_facts = row_facts.data();
  device.launch<RowsKernel<metric, Source, Operand>>(2, 0, args);
  const ScoreHalfArgs<Operand> score{
      .queries = {reinterpret_cast<const Operand*>(query_operands.data()), m, stride, operand_cols},
      .query_facts = query_facts.data(),
      .gallery = {reinterpret_cast<const Operand*>(gallery_operands.data()), n, stride, operand_cols},
      .row_facts = row_facts.data(),
      .scores = coarse.data(),
      .score_stride = n};
  const int64_t blocks = ((m + 127) / 128) * ((n + 127) / 128);
  device.launch<ScoreHalfKernel<Operand>>(blocks, ScoreHalfTile::kSharedBytes, score);

  std::vector<double> query_lost(static_cast<std::size_t>(m)), row_lost(static_cast<std::size_t>(n));
  double most = 0.0;  // of any query, which the facts of rows allow for with inner products
  if (kBytes) {
    query_lost = most_lost(queries);
    row_lost = most_lost(gallery);
    for (int64_t q = 0; q < m; ++q) {
      if (metric == Metric::inner_product && query_facts[q].provable) most = std::max(most, query_lost[q]);
    }
  }
  for (int64_t q = 0; q < m; ++q) {
    if (!query_facts[q].provable) continue;
    for (int64_t r = 0; r < n; ++r) {
      const float* const a = &queries.values[q * cols];
      const float* const b = &gallery.values[r * cols];
      const double exact = static_cast<double>(exact_score_of(a, b, cols, metric));
      const double bound = static_cast<double>(coarse[q * n + r]) * query_facts[q].slope + query_facts[q].constant;
      if (std::isnan(coarse[q * n + r])) {
        CHECK(std::isnan(exact));  // hopeless
        continue;
      }
      if (std::isinf(coarse[q * n + r])) continue;  // forced: kept whatever the score is
      CHECK(exact <= bound);
      double qq = 0.0, gg = 0.0;
      for (int64_t c = 0; c < cols; ++c) {
        qq += static_cast<double>(a[c]) * a[c];
        gg += static_cast<double>(b[c]) * b[c];
      }
      const double scale = metric == Metric::cosine ? 1.0 : metric == Metric::l2 ? qq + gg : std::sqrt(qq * gg);
      // And it is not vacuous: the allowance is of the size that the claim says, twice for l2.
      const double allowance =
          error + std::max(query_lost[q], most) * (1.0 + most) + row_lost[r] * (1.0 + query_lost[q]);
      CHECK(bound - exact <= (metric == Metric::l2 ? 4.1 : 2.1) * allowance * scale + 1e-30);
      double& tightest = kBytes ? g_tightest_in_bytes : g_tightest;
      if (scale > 0) tightest = std::max(tightest, 1.0 - (bound - exact) / (2.0 * allowance * scale));
    }
  }
}

template <typename Source, typename Operand>
void check_all(const Stored& queries, const Stored& gallery) {
  check_bound<Metric::cosine, Source, Operand>(queries, gallery);
  check_bound<Metric::inner_product, Source, Operand>(queries, gallery);
  if constexpr (!std::is_same_v<Operand, BytePair>) check_bound<Metric::l2, Source, Operand>(queries, gallery);
}

// Mantissas just above or below the middle between two neighbours of a format with `bits` of them.
float near_middle(std::mt19937& random, int bits, bool up) {
  const float step = std::ldexp(1.0f, -bits);
  const float base = 1.0f + step * static_cast<float>(random() % 3);
  return base + step * (up ? 0.501f : 0.499f);
}

}  // namespace

int main() {
  std::mt19937 random(11);
  for (int64_t cols : {1, 5, 16, 100, 130}) {
    std::vector<float> q, g;
    for (int64_t r = 0; r < 12; ++r) {
      const float power = std::ldexp(1.0f, static_cast<int>(random() % 60) - 30);
      for (int64_t c = 0; c < cols; ++c) {
        const bool up = r % 2;
        q.push_back(near_middle(random, 10, up) * power);
        g.push_back((r % 4 < 2 ? 1.0f : -1.0f) * near_middle(random, 10, r % 3 != 0) / power);
      }
    }
    // Rows with a range beyond float16, and rows treated apart.
    for (int64_t r = 12; r < 24; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        const float x = std::ldexp(near_middle(random, 10, true), -static_cast<int>(random() % 40));
        q.push_back(x);
        g.push_back(r == 20   ? 0.0f
                    : r == 21 ? x * 1e30f
                    : r == 22 ? (c == 0 ? std::numeric_limits<float>::quiet_NaN() : x)
                    : r == 23 ? (c == 0 ? std::numeric_limits<float>::infinity() : x)
                              : -x);
      }
    }
    check_all<float, BytePair>(store(q, 24, cols, Dtype::f32), store(g, 24, cols, Dtype::f32));
    check_all<Half, BytePair>(store(q, 24, cols, Dtype::f16), store(g, 24, cols, Dtype::f16));
    check_all<float, Half>(store(q, 24, cols, Dtype::f32), store(g, 24, cols, Dtype::f32));
    check_all<float, Bfloat>(store(q, 24, cols, Dtype::f32), store(g, 24, cols, Dtype::f32));
    check_all<Half, Half>(store(q, 24, cols, Dtype::f16), store(g, 24, cols, Dtype::f16));
    check_all<Bfloat, Half>(store(q, 24, cols, Dtype::bf16), store(g, 24, cols, Dtype::bf16));
    check_all<Bfloat, Bfloat>(store(q, 24, cols, Dtype::bf16), store(g, 24, cols, Dtype::bf16));
  }
  // The same for int8: nearly half a step lost in every column, all one way.
  for (int64_t cols : {2, 33, 260}) {
    std::vector<float> q, g;
    for (int64_t r = 0; r < 8; ++r) {
      const float power = std::ldexp(1.0f, static_cast<int>(random() % 60) - 30);
      for (int64_t c = 0; c < cols; ++c) {
        q.push_back((c == 0 ? 127.0f : r % 2 ? 126.499f : 126.501f) * power);
        g.push_back((c == 0 ? 127.0f : r % 3 ? 126.499f : 126.501f) * (r % 4 < 2 ? 1.0f : -1.0f) / power);
      }
    }
    check_all<float, BytePair>(store(q, 8, cols, Dtype::f32), store(g, 8, cols, Dtype::f32));
  }
  std::printf("at most %.2f of the allowance was used, %.2f in int8\n", g_tightest, g_tightest_in_bytes);
  CHECK(g_tightest > 0.85);  // else these rows would not be the hard ones
  CHECK(g_tightest_in_bytes > 0.85);
  return 0;
}
