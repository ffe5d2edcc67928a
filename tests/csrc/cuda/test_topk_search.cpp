// The whole search on the shim against exact scores of every row: every path, tiling, dtype and metric gives the same
// bits, on hundreds of random shapes and on the galleries that are worst for thresholds.
#include "topk_support.hpp"

using namespace fct::cuda::topk;
using namespace fct::cuda::topk::testing;
using fct::Dtype;

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr uint32_t kRandomShapes = 30;  // each switch of fibers is slow under it
constexpr int64_t kWgmmaEvery = 5;      // searches, of which one is made on wgmma too
#else
constexpr uint32_t kRandomShapes = 120;
constexpr int64_t kWgmmaEvery = 2;
#endif

class Draw {
 public:
  explicit Draw(uint32_t seed) : random_(seed) {}
  int64_t below(int64_t count) { return static_cast<int64_t>(random_() % static_cast<uint32_t>(count)); }
  int64_t of(std::initializer_list<int64_t> choices) {
    return choices.begin()[below(static_cast<int64_t>(choices.size()))];
  }

 private:
  std::mt19937 random_;
};

enum Kind { kNormal, kIntegers, kEqual, kDuplicates, kRising, kFalling, kBroken, kKinds };

// Rows [rows, cols] of one kind; `query` is what rising and falling galleries are sorted by.
std::vector<float> values_of(Kind kind, int64_t rows, int64_t cols, const std::vector<float>& query, uint32_t seed) {
  std::vector<float> values = normal_values(rows * cols, seed);
  Draw draw(seed + 7);
  switch (kind) {
    case kIntegers:  // exact scores, many of them equal
      for (float& value : values) value = std::round(value);
      break;
    case kEqual:
      for (int64_t i = cols; i < rows * cols; ++i) values[i] = values[i - cols];
      break;
    case kDuplicates:  // few different rows
      for (int64_t r = 5; r < rows; ++r) std::copy_n(&values[draw.below(5) * cols], cols, &values[r * cols]);
      break;
    case kRising:
    case kFalling: {  // by every metric: along the query, with ever less beside it
      for (int64_t r = 0; r < rows; ++r) {
        const double t = static_cast<double>(kind == kRising ? r + 1 : rows - r) / static_cast<double>(rows + 1);
        for (int64_t c = 0; c < cols; ++c) {
          float& value = values[r * cols + c];
          value = static_cast<float>(t * static_cast<double>(query[c]) + 0.01 * (1.0 - t) * static_cast<double>(value));
        }
      }
      break;
    }
    case kBroken:  // NaN, Inf, zero, huge and tiny rows among the others
      for (int64_t r = 0; r < rows; ++r) {
        float* const row = &values[r * cols];
        const int64_t at = draw.below(cols);
        switch (draw.below(12)) {
          case 0:
            row[at] = std::numeric_limits<float>::quiet_NaN();
            break;
          case 1:
            row[at] = std::numeric_limits<float>::infinity();
            break;
          case 2:
            row[at] = -std::numeric_limits<float>::infinity();
            break;
          case 3:
            std::fill_n(row, cols, 0.0f);
            break;
          case 4:
            std::transform(row, row + cols, row, [](float x) { return x * 1e30f; });
            break;
          case 5:
            std::transform(row, row + cols, row, [](float x) { return x * 1e-30f; });
            break;
          case 6:
            std::transform(row, row + cols, row, [](float x) { return x * 1e-42f; });
            break;
          default:
            break;
        }
      }
      break;
    default:
      break;
  }
  return values;
}

int64_t g_runs = 0;
int64_t g_unproved = 0;
int64_t g_bytes = 0;
int64_t g_turns = 0;
int64_t g_wgmma = 0;

// The fused path on wgmma; its blocks are many fibers, so not each time.
void check_wgmma(Case c, const Stored& queries, const Stored& gallery,
                 const std::vector<std::vector<Result>>& expected) {
  if (g_wgmma++ % kWgmmaEvery != 0 || !fits_wgmma(c.device)) return;
  c.coarse = c.wgmma = true;
  c.bytes = false;
  c.path = static_cast<int>(Path::fused);
  const Found found = run(c, queries.view, gallery.view);
  CHECK(found.plan.wgmma);
  check_result(c, queries, gallery, found, expected);
}

// All three paths. Where the metric can be scored in int8, one of the two coarse paths is, by turns.
void check_paths(Case c, const Stored& queries, const Stored& gallery) {
  const auto expected = expect(c, queries, gallery);
  ++g_turns;
  for (int path = 0; path < 3; ++path) {
    c.coarse = path > 0;
    c.path = path;
    c.bytes = path > 0 && c.metric != Metric::l2 && (g_turns + path) % 2 == 0;
    g_bytes += c.bytes;
    ++g_runs;
    const Found found = run(c, queries.view, gallery.view);
    check_result(c, queries, gallery, found, expected);
    g_unproved += found.unproved;
  }
  check_wgmma(c, queries, gallery, expected);
}

void check_random(uint32_t seed) {
  Draw draw(seed);
  Case c;
  c.seed = seed;
  c.metric = static_cast<Metric>(draw.below(3));
  const int64_t queries = draw.of({1, 1, 2, 3, 5});
  const int64_t cols = draw.of({1, 2, 7, 8, 16, 17, 31, 33, 64, 65, 127, 128, 129, 130, 200, 260});
  const int64_t rows = draw.of({1, 2, 31, 63, 64, 65, 127, 128, 129, 200, 300, 500});
  c.k = std::min(rows, draw.of({1, 1, 2, 10, 10, 31, 32, 33, 100, 128, 129, 500}));
  c.first_id = draw.of({0, int64_t{5'000'000'000}});
  c.chunk_rows = draw.of({0, 128, 256});
  c.stripes = draw.of({0, 1, 2, 3, 5});
  c.kept = draw.of({0, 0, c.k});  // without a margin most proofs fail
  c.pieces = static_cast<int>(draw.of({1, 1, 2, 3}));
  const Dtype query_dtype = static_cast<Dtype>(draw.below(3));
  const Dtype gallery_dtype = static_cast<Dtype>(draw.below(3));
  const Kind kind = static_cast<Kind>(draw.below(kKinds));
  const std::vector<float> query_values = values_of(kind == kBroken && draw.below(2) ? kBroken
                                                    : kind == kIntegers              ? kIntegers
                                                                                     : kNormal,
                                                    queries, cols, {}, seed * 2 + 1);
  const Stored q = store(query_values, queries, cols, query_dtype, draw.below(2), draw.below(3));
  const bool aligned = draw.below(2);
  const int64_t gap = aligned ? (8 - cols % 8) % 8 : draw.below(3);
  const Stored g = store(values_of(kind, rows, cols, query_values, seed * 2 + 2), rows, cols, gallery_dtype,
                         aligned ? 0 : draw.below(3), gap);
  check_paths(c, q, g);
}

// k up to its limit, and k = n.
void check_large_k() {
  for (Metric metric : {Metric::cosine, Metric::l2}) {
    const Stored queries = store(normal_values(2 * 24, 1), 2, 24, Dtype::f16);
    const Stored gallery = store(normal_values(2300 * 24, 2), 2300, 24, Dtype::f16);
    for (int64_t k : {1000, 2048}) {
      check_paths({.metric = metric, .k = k, .first_id = int64_t{1} << 33, .chunk_rows = 1024, .stripes = 2}, queries,
                  gallery);
    }
    const Stored few = store(normal_values(1000 * 24, 3), 1000, 24, Dtype::f32);
    check_paths({.metric = metric, .k = 1000, .pieces = 1}, queries, few);
    const Stored limit = store(normal_values(2048 * 24, 4), 2048, 24, Dtype::bf16);
    check_paths({.metric = metric, .k = 2048}, queries, limit);
  }
}

// More queries than a tile holds, in more than one block of queries.
void check_many_queries() {
  const Stored queries = store(normal_values(150 * 40, 1), 150, 40, Dtype::bf16);
  const Stored gallery = store(normal_values(400 * 40, 2), 400, 40, Dtype::bf16);
  check_paths({.metric = Metric::cosine, .k = 10, .chunk_rows = 256, .stripes = 2}, queries, gallery);
  Case small{.metric = Metric::inner_product, .k = 10, .scratch_limit = 100'000};  // shrinks chunks and query blocks
  check_paths(small, queries, gallery);
}

// Rows on both sides of where queries no longer stay in shared memory; for both consumers, with a tile that is not
// full.
void check_wide_rows() {
  for (int64_t cols : {512, 700}) {
    const Dtype dtype = cols == 512 ? Dtype::f16 : Dtype::bf16;
    const Stored queries = store(normal_values(70 * cols, 1), 70, cols, dtype);
    const Stored gallery = store(normal_values(600 * cols, 2), 600, cols, dtype, 0, (8 - cols % 8) % 8);
    const Case one{.metric = Metric::cosine, .k = 10, .path = 2, .wgmma = true, .stripes = 1};
    const auto expected = expect(one, queries, gallery);
    for (uint32_t seed : {1, 2, 3}) {
      Case c = one;
      c.seed = seed;
      const Found found = run(c, queries.view, gallery.view);
      check_result(c, queries, gallery, found, expected);
      CHECK(found.plan.wgmma && found.unproved == 0);  // scores that are wrong would not be proved
    }
  }
}

// The order of a stripe's tiles, and buffers that fill again and again.
void check_sorted_galleries() {
  const std::vector<float> query = normal_values(16, 1);
  const Stored queries = store(query, 1, 16, Dtype::f16);
  for (Kind kind : {kRising, kFalling, kEqual, kDuplicates}) {
    for (Metric metric : {Metric::cosine, Metric::inner_product, Metric::l2}) {
      const Stored gallery = store(values_of(kind, 3000, 16, query, 5), 3000, 16, Dtype::f16);
      check_paths({.metric = metric, .k = 20, .chunk_rows = 1536}, queries, gallery);
    }
  }
}

// Rows so far apart that offsets pass 32 bits, in elements and in bytes. Only the pages that hold rows take memory.
void check_wide_offsets() {
  const int64_t rows = 140, cols = 20, stride = int64_t{1} << 26;
  const std::size_t bytes = static_cast<std::size_t>(rows * stride * 2);
  void* const place = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(place != MAP_FAILED);
  const Stored queries = store(normal_values(2 * cols, 1), 2, cols, Dtype::f16);
  Stored gallery = store(normal_values(rows * cols, 2), rows, cols, Dtype::f16);
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(static_cast<unsigned char*>(place) + r * stride * 2, gallery.view.row(r), cols * 2);
  }
  gallery.view.data = static_cast<const unsigned char*>(place);
  gallery.view.row_stride = stride;
  for (int pieces : {1, 2}) {
    check_paths({.metric = Metric::cosine, .k = 30, .first_id = int64_t{1} << 40, .pieces = pieces}, queries, gallery);
  }
  munmap(place, bytes);
}

// Gaps that are wide against float16: every result is proved without the exact kernels, and so the coarse ones did the
// work. (That unproved queries are answered as well is what kept = k tests above.)
void check_proofs() {
  const int64_t rows = 600, cols = 48;
  const Stored queries = store(normal_values(4 * cols, 1), 4, cols, Dtype::f32);
  const Stored gallery = store(normal_values(rows * cols, 2), rows, cols, Dtype::f32);
  for (Metric metric : {Metric::cosine, Metric::inner_product, Metric::l2}) {
    for (int path : {1, 2}) {
      const Found found = check_case({.metric = metric, .k = 10, .path = path}, queries, gallery);
      CHECK(found.unproved == 0);
      if (metric == Metric::l2) continue;
      const Found in_bytes = check_case({.metric = metric, .k = 10, .bytes = true, .path = path}, queries, gallery);
      CHECK(in_bytes.plan.bytes && in_bytes.unproved == 0);
    }
  }
  // On wgmma, where a block has four times sixteen queries and as many again.
  const Stored many = store(normal_values(100 * 200, 5), 100, 200, Dtype::f16);
  const Stored wide = store(normal_values(rows * 200, 6), rows, 200, Dtype::f16);
  for (Metric metric : {Metric::cosine, Metric::inner_product, Metric::l2}) {
    const Case c{.metric = metric, .k = 10, .path = 2, .wgmma = true, .chunk_rows = 384, .stripes = 1};
    CHECK(check_case(c, many, wide).unproved == 0);
  }
  // Hopeless rows fill the list of a gallery with few numbers in it; that is proved too.
  std::vector<float> values = normal_values(rows * cols, 3);
  for (int64_t r = 0; r < rows; ++r) {
    if (r % 50 != 0) values[r * cols] = std::numeric_limits<float>::quiet_NaN();
  }
  const Stored broken = store(values, rows, cols, Dtype::f32);
  for (bool bytes : {false, true}) {
    for (int path : {1, 2}) {
      const Case c{.metric = Metric::cosine, .k = 30, .bytes = bytes, .path = path};
      CHECK(check_case(c, queries, broken).unproved == 0);
    }
  }
  // With all scores equal nothing can be proved.
  const Stored equal = store(values_of(kEqual, rows, cols, {}, 4), rows, cols, Dtype::f32);
  CHECK(check_case({.metric = Metric::cosine, .k = 10, .path = 2}, queries, equal).unproved == 4);
  CHECK(check_case({.metric = Metric::cosine, .k = 10, .bytes = true, .path = 2}, queries, equal).unproved == 4);
}

// A search asks once a piece whether it is to go on, and ends there.
void check_stop() {
  const Stored queries = store(normal_values(2 * 16, 1), 2, 16, Dtype::f32);
  const Stored gallery = store(normal_values(500 * 16, 2), 500, 16, Dtype::f32);
  for (int path = 0; path < 3; ++path) {
    Case c{.metric = Metric::cosine, .k = 3, .coarse = path > 0, .path = path, .chunk_rows = 128, .paces = 4};
    CHECK(run(c, queries.view, gallery.view).unproved == 0);
    c.paces = 3;
    CHECK_THROWS(run(c, queries.view, gallery.view), fct::Interrupted);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) {
    check_random(static_cast<uint32_t>(std::atoi(argv[1])));
    return 0;
  }
  for (uint32_t seed = 1; seed <= kRandomShapes; ++seed) check_random(seed);
  check_large_k();
  check_many_queries();
  check_wide_rows();
  check_sorted_galleries();
  check_wide_offsets();
  check_proofs();
  check_stop();
  std::printf("%ld searches, %ld of them in int8, %ld queries through the exact kernels for want of a proof\n",
              static_cast<long>(g_runs), static_cast<long>(g_bytes), static_cast<long>(g_unproved));
  CHECK(g_unproved > 50);  // else nothing tried what happens then
  return 0;
}
