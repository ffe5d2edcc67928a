// Full-ranking evaluation on the shim: the CPU kernel's ranks and the bits of its average precisions, whatever the
// pieces, on ties, duplicates, NaN, equal scores, queries without positives and queries that are left out.
#include "core/dispatch.hpp"
#include "core/error.hpp"
#include "core/rank.hpp"
#include "cuda/rank/run.hpp"
#include "topk_support.hpp"

using namespace fct::cuda::rank;
using fct::CpuLevel;
using fct::Dtype;
using fct::MatrixView;
using fct::Metric;
using fct::ShapeError;
using fct::cuda::DeviceFacts;
using fct::cuda::topk::testing::Memory;
using fct::cuda::topk::testing::normal_values;
using fct::cuda::topk::testing::ShimDevice;
using fct::cuda::topk::testing::store;
using fct::cuda::topk::testing::Stored;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr DeviceFacts kDevice{
    .compute = 90, .multiprocessors = 4, .shared_bytes = 227 << 10, .memory_bytes = int64_t{1} << 30};

class RankDevice : public ShimDevice {
 public:
  using ShimDevice::ShimDevice;
  void upload(void* target, const void* source, int64_t bytes) {
    std::memcpy(target, source, static_cast<std::size_t>(bytes));
  }
  void download(void* target, const void* source, int64_t bytes) { upload(target, source, bytes); }
  void pause() {
    if (--pauses_left == 0) throw fct::Interrupted();
  }
  int64_t pauses_left = -1;
};

// Labels of queries and rows as fct::Positives has them; a label that no row has is class -1.
class Labels {
 public:
  Labels(const std::vector<int>& queries, const std::vector<int>& rows, bool exclude_self)
      : exclude_self_(exclude_self) {
    const int classes = 1 + *std::max_element(rows.begin(), rows.end());
    for (int label : queries) {
      const bool known = std::count(rows.begin(), rows.end(), label) > 0;
      query_classes_.push_back(known ? label : -1);
    }
    for (int label = 0; label < classes; ++label) {
      class_starts_.push_back(static_cast<int64_t>(class_rows_.size()));
      for (std::size_t r = 0; r < rows.size(); ++r) {
        if (rows[r] == label) class_rows_.push_back(static_cast<int64_t>(r));
      }
    }
    class_starts_.push_back(static_cast<int64_t>(class_rows_.size()));
  }
  fct::Positives positives() const {
    return {.query_classes = query_classes_.data(),
            .class_starts = class_starts_.data(),
            .class_rows = class_rows_.data(),
            .exclude_self = exclude_self_};
  }

 private:
  std::vector<int64_t> query_classes_, class_starts_, class_rows_;
  bool exclude_self_;
};

struct Ranks {
  explicit Ranks(int64_t queries)
      : first_rank(static_cast<std::size_t>(queries), -7),
        average_precision(static_cast<std::size_t>(queries), -7.0),
        positives(static_cast<std::size_t>(queries), -7) {}
  fct::RankResult result() {
    return {
        .first_rank = first_rank.data(), .average_precision = average_precision.data(), .positives = positives.data()};
  }
  std::vector<int64_t> first_rank;
  std::vector<double> average_precision;
  std::vector<int64_t> positives;
};

// The plan's own where 0; else smaller ones, so that its scratch serves.
struct Pieces {
  int64_t query_block = 0;
  int64_t key_limit = 0;
  int64_t chunk_rows = 0;
  int64_t stripes = 0;
};

CpuLevel oracle_level() {
  CpuLevel best = CpuLevel::scalar;
  for (CpuLevel level : fct::usable_levels()) best = level;
  return best;
}

void check(const Stored& queries, const Stored& gallery, Metric metric, const Labels& labels, const Pieces& pieces,
           uint32_t seed) {
  Ranks want(queries.view.rows), got(queries.view.rows);
  fct::rank(oracle_level(), {.queries = queries.view,
                             .gallery = gallery.view,
                             .metric = metric,
                             .positives = labels.positives(),
                             .result = want.result()});
  const Shape shape{.queries = queries.view.rows,
                    .rows = gallery.view.rows,
                    .cols = gallery.view.cols,
                    .metric = metric,
                    .gallery_dtype = gallery.view.dtype};
  Plan plan = make_plan(shape, labels.positives(), kDevice, int64_t{1} << 30);
  if (pieces.query_block) plan.query_block = pieces.query_block;
  if (pieces.key_limit) plan.key_limit = pieces.key_limit;
  if (pieces.chunk_rows) plan.chunk_rows = pieces.chunk_rows;
  if (pieces.stripes) plan.stripes = pieces.stripes;
  const Memory scratch(place_scratch(plan, shape.rows, shape.cols, nullptr).bytes);
  RankDevice device(seed);
  rank(device, plan,
       {.queries = queries.view,
        .gallery = gallery.view,
        .metric = metric,
        .positives = labels.positives(),
        .result = got.result(),
        .scratch = scratch.data()});
  for (int64_t q = 0; q < shape.queries; ++q) {
    if (got.first_rank[q] == want.first_rank[q] && got.positives[q] == want.positives[q] &&
        std::memcmp(&got.average_precision[q], &want.average_precision[q], sizeof(double)) == 0)
      continue;
    std::fprintf(
        stderr,
        "seed %u query %ld of %ld, %ld x %ld rows, metric %d\n%s\ngot rank %ld ap %.17g of %ld, want %ld %.17g "
        "%ld\n",
        seed, static_cast<long>(q), static_cast<long>(shape.queries), static_cast<long>(shape.rows),
        static_cast<long>(shape.cols), static_cast<int>(metric), plan.describe().c_str(),
        static_cast<long>(got.first_rank[q]), got.average_precision[q], static_cast<long>(got.positives[q]),
        static_cast<long>(want.first_rank[q]), want.average_precision[q], static_cast<long>(want.positives[q]));
    std::exit(1);
  }
}

enum Kind { kNormal, kIntegers, kEqual, kDuplicates, kBroken, kKinds };

std::vector<float> values_of(Kind kind, int64_t rows, int64_t cols, std::mt19937& random) {
  std::vector<float> values = normal_values(rows * cols, static_cast<uint32_t>(random()));
  const auto below = [&](int64_t count) { return static_cast<int64_t>(random() % static_cast<uint32_t>(count)); };
  for (int64_t r = 0; r < rows; ++r) {
    float* const row = &values[r * cols];
    if (kind == kIntegers) std::transform(row, row + cols, row, [](float x) { return std::round(x); });
    if (kind == kEqual && r > 0) std::copy_n(values.begin(), cols, row);
    if (kind == kDuplicates && r >= 5) std::copy_n(&values[below(5) * cols], cols, row);
    if (kind != kBroken) continue;
    const int64_t what = below(8);
    if (what == 0) row[below(cols)] = kNan;
    if (what == 1) row[below(cols)] = std::numeric_limits<float>::infinity();
    if (what == 2) std::fill_n(row, cols, 0.0f);  // as a flagged row is stored
    if (what == 3) std::transform(row, row + cols, row, [](float x) { return x * 1e30f; });
    if (what == 4) std::transform(row, row + cols, row, [](float x) { return x * -0.0f; });
  }
  return values;
}

void check_random(uint32_t seed) {
  std::mt19937 random(seed);
  const auto of = [&](std::initializer_list<int64_t> choices) { return choices.begin()[random() % choices.size()]; };
  const int64_t rows = of({1, 2, 40, 127, 128, 129, 300, 400});
  const int64_t cols = of({1, 3, 16, 33, 130});
  const bool exclude_self = of({0, 1}) == 1;
  const int64_t queries = exclude_self ? std::min(rows, of({1, 5, 12})) : of({1, 5, 12});
  const Kind kind = static_cast<Kind>(of({kNormal, kIntegers, kEqual, kDuplicates, kBroken}));
  const int64_t classes = of({1, 2, 7, rows});
  const auto labels_of = [&](int64_t count, int64_t most) {
    std::vector<int> labels;
    for (int64_t i = 0; i < count; ++i) labels.push_back(static_cast<int>(random() % static_cast<uint32_t>(most)));
    return labels;
  };
  const std::vector<int> row_labels = labels_of(rows, classes);
  std::vector<int> query_labels = labels_of(queries, classes + 1);  // the last is no row's
  if (exclude_self) std::copy_n(row_labels.begin(), queries, query_labels.begin());
  const auto dtype = [&] { return static_cast<Dtype>(random() % 3); };
  const Stored q =
      store(values_of(kind == kEqual ? kNormal : kind, queries, cols, random), queries, cols, dtype(), 1, 2);
  const Stored g = store(values_of(kind, rows, cols, random), rows, cols, dtype(), 0, of({0, 3}));
  const Metric metric = static_cast<Metric>(random() % 3);
  const Pieces pieces{.query_block = of({0, 0, 3}),
                      .key_limit = of({0, 0, 50}),
                      .chunk_rows = of({0, 0, 128, 256}),
                      .stripes = of({0, 1, 3})};
  check(q, g, metric, Labels(query_labels, row_labels, exclude_self), pieces, seed);
}

// More positives than are sorted, searched and counted in shared memory, with and without ties.
void check_large_classes() {
  for (const bool ties : {false, true}) {
    std::mt19937 random(3);
    const int64_t rows = 9102, cols = 3;  // 8646 positives: every third level is in shared memory, and two come after
    const Stored q = store(values_of(ties ? kIntegers : kNormal, 2, cols, random), 2, cols, Dtype::f32);
    const Stored g = store(values_of(ties ? kIntegers : kNormal, rows, cols, random), rows, cols, Dtype::f32);
    std::vector<int> labels(static_cast<std::size_t>(rows));
    for (int64_t r = 0; r < rows; ++r) labels[r] = r % 20 == 7;
    check(q, g, Metric::inner_product, Labels({0, 1}, labels, true), {.chunk_rows = 4096, .stripes = 2}, 5);
  }
}

// The oracle apart from any kernel: scores 3, 2, 2, 1 and labels by hand.
void check_by_hand() {
  const Stored q = store({1.0f}, 1, 1, Dtype::f32);
  const Stored g = store({2.0f, 1.0f, 3.0f, 2.0f}, 4, 1, Dtype::f32);
  Ranks got(1);
  const Labels labels({1}, {0, 1, 0, 1}, false);
  const Plan plan = make_plan({1, 4, 1, Metric::inner_product, Dtype::f32}, labels.positives(), kDevice, 1 << 20);
  const Memory scratch(plan.scratch_bytes);
  RankDevice device(1);
  rank(device, plan, {q.view, g.view, Metric::inner_product, labels.positives(), got.result(), scratch.data()});
  CHECK(got.first_rank[0] == 3);  // rows 2 and, of the tie, 0 come before
  CHECK(got.average_precision[0] == (1.0 / 3.0 + 2.0 / 4.0) / 2.0);
  CHECK(got.positives[0] == 2);
}

void check_stop() {
  const Stored rows = store(normal_values(300 * 4, 1), 300, 4, Dtype::f32);
  const Labels labels(std::vector<int>(300, 0), std::vector<int>(300, 0), true);
  Plan plan = make_plan({300, 300, 4, Metric::l2, Dtype::f32}, labels.positives(), kDevice, 1 << 20);
  const Memory scratch(plan.scratch_bytes);
  Ranks got(300);
  RankDevice device(1);
  device.pauses_left = 1;
  CHECK_THROWS(rank(device, plan, {rows.view, rows.view, Metric::l2, labels.positives(), got.result(), scratch.data()}),
               fct::Interrupted);
}

// Plans stay under their limit, hold every block's keys, and cut each query into one block.
void check_plans() {
  for (const int64_t per_class : {1, 50, 5000}) {
    const int64_t rows = 20000, queries = 3000;
    std::vector<int> row_labels, query_labels;
    for (int64_t r = 0; r < rows; ++r) row_labels.push_back(static_cast<int>(r / per_class));
    for (int64_t q = 0; q < queries; ++q) query_labels.push_back(row_labels[q * 6]);
    std::vector<int64_t> starts, ids, classes;
    for (int64_t r = 0; r < rows; ++r) {
      if (r % per_class == 0) starts.push_back(r);
      ids.push_back(r);
    }
    starts.push_back(rows);
    for (int label : query_labels) classes.push_back(label);
    const fct::Positives positives{classes.data(), starts.data(), ids.data(), false};
    for (int64_t limit : {int64_t{1} << 30, int64_t{16} << 20, int64_t{2} << 20}) {
      const Plan plan = make_plan({queries, rows, 128, Metric::cosine, Dtype::f16}, positives, kDevice, limit);
      CHECK(plan.scratch_bytes <= limit);
      CHECK(plan.chunk_rows % 128 == 0 && plan.query_block >= 1 && plan.query_block <= 1024);
      int64_t seen = 0;
      for (int64_t first = 0; first < queries;) {
        const int64_t end = block_end(plan, positives, queries, first);
        CHECK(end > first && end <= queries && end - first <= plan.query_block);
        int64_t keys = 0;
        for (int64_t q = first; q < end; ++q) keys += class_size(positives, q);
        CHECK(keys <= plan.keys);
        seen += end - first;
        first = end;
      }
      CHECK(seen == queries);
    }
  }
  const Labels labels({0}, {0}, false);
  CHECK_THROWS(make_plan({1, int64_t{1} << 32, 4, Metric::l2, Dtype::f32}, labels.positives(), kDevice, 1 << 20),
               ShapeError);
}

}  // namespace

int main(int argc, char** argv) {
  if (oracle_level() == CpuLevel::scalar) return 0;  // without fused multiply-adds, and so with other bits
  if (argc > 1) {
    check_random(static_cast<uint32_t>(std::atoi(argv[1])));
    return 0;
  }
  check_by_hand();
  for (uint32_t seed = 1; seed <= 60; ++seed) check_random(seed);
  check_large_classes();
  check_stop();
  check_plans();
  return 0;
}
