// What the top-k tests share: a device that is the shim, galleries of every kind, and the oracle.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/error.hpp"
#include "core/half.hpp"
#include "cuda/topk/search.hpp"

namespace fct::cuda::topk::testing {

class ShimDevice {
 public:
  explicit ShimDevice(uint32_t seed, int64_t paces = -1) : seed_(seed), paces_left_(paces) {}

  template <typename Kernel>
  void launch(int64_t blocks, int64_t shared_bytes, const typename Kernel::Args& args) {
    const shim::Launch launch{
        .blocks = blocks, .threads = Kernel::kThreads, .shared_bytes = shared_bytes, .seed = seed_++};
    try {
      shim::launch(launch, [&](unsigned char* shared) { Kernel::run(args, shared); });
    } catch (const shim::Fault& fault) {
      std::fprintf(stderr, "%s in %s\n", fault.what(), __PRETTY_FUNCTION__);
      std::exit(1);
    }
  }
  void zero(void* target, int64_t bytes) { std::memset(target, 0, static_cast<std::size_t>(bytes)); }
  uint32_t read(const uint32_t* source) { return *source; }
  void pace() {
    if (paces_left_ == 0) throw Interrupted();
    --paces_left_;
  }

 private:
  uint32_t seed_;
  int64_t paces_left_;  // where the caller wants to stop
};

// Bytes at a multiple of 256, poisoned, with nothing to spare behind them.
class Memory {
 public:
  explicit Memory(int64_t bytes) {
    void* place = nullptr;
    CHECK(posix_memalign(&place, 256, static_cast<std::size_t>(std::max<int64_t>(bytes, 1))) == 0);
    data_.reset(static_cast<unsigned char*>(place));
    std::memset(place, 0xff, static_cast<std::size_t>(bytes));
  }
  unsigned char* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(unsigned char* place) const { std::free(place); }
  };
  std::unique_ptr<unsigned char, Free> data_;
};

// Rows as stored, and the same values as floats.
struct Stored {
  std::vector<float> values;  // [rows, cols], what the elements widen to
  std::unique_ptr<Memory> memory;
  MatrixView view;
};

// `skew` elements lie before the first row, and `gap` after each: rows that are not aligned, where odd.
inline Stored store(const std::vector<float>& values, int64_t rows, int64_t cols, Dtype dtype, int64_t skew = 0,
                    int64_t gap = 0) {
  Stored stored;
  stored.values = values;
  const int64_t stride = cols + gap;
  const int64_t size = size_of(dtype);
  stored.memory = std::make_unique<Memory>((skew + std::max<int64_t>(rows - 1, 0) * stride + (rows ? cols : 0)) * size);
  unsigned char* const base = stored.memory->data() + skew * size;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      float& value = stored.values[r * cols + c];
      unsigned char* const target = base + (r * stride + c) * size;
      if (dtype == Dtype::f32) {
        std::memcpy(target, &value, 4);
        continue;
      }
      const uint16_t bits = dtype == Dtype::f16 ? half_from_float(value) : bfloat_from_float(value);
      value = dtype == Dtype::f16 ? float_from_half(bits) : float_from_bfloat(bits);
      std::memcpy(target, &bits, 2);
    }
  }
  stored.view = {base, dtype, rows, cols, stride};
  return stored;
}

struct Result {
  float score;
  int64_t id;
};

// Written from the promise, not from the kernels: rows in float32, at unit norm for the cosine; one chain of fused
// multiply-adds a run of 128 columns, runs added in order.
inline float exact_score_of(const float* q, const float* g, int64_t cols, Metric metric) {
  std::vector<float> unit[2];
  if (metric == Metric::cosine) {
    int side = 0;
    for (const float* row : {q, g}) {
      double squares = 0.0;
      for (int64_t c = 0; c < cols; ++c) squares += static_cast<double>(row[c]) * row[c];
      const double norm = std::sqrt(squares);
      const double scale = norm < static_cast<double>(std::numeric_limits<float>::min()) ? 0.0 : 1.0 / norm;
      for (int64_t c = 0; c < cols; ++c) unit[side].push_back(static_cast<float>(row[c] * scale));
      ++side;
    }
    q = unit[0].data();
    g = unit[1].data();
  }
  float total = 0.0f;
  for (int64_t first = 0; first < cols; first += 128) {
    float run = 0.0f;
    for (int64_t c = first; c < std::min(first + 128, cols); ++c) {
      const float d = q[c] - g[c];
      run = metric == Metric::l2 ? std::fma(-d, d, run) : std::fma(q[c], g[c], run);
    }
    total += run;
  }
  return total;
}

// Higher score, then lower id; NaN last. As core/topk.cpp says it, without keys.
inline bool comes_before(const Result& a, const Result& b) {
  if (std::isnan(a.score) != std::isnan(b.score)) return std::isnan(b.score);
  if (!std::isnan(a.score) && a.score != b.score) return a.score > b.score;
  return a.id < b.id;
}

// All rows of one query, best first, with scores as kernels count them (a distance is negative).
inline std::vector<Result> ranked(const float* query, const Stored& gallery, Metric metric) {
  std::vector<Result> all;
  const int64_t cols = gallery.view.cols;
  for (int64_t r = 0; r < gallery.view.rows; ++r) {
    all.push_back({exact_score_of(query, gallery.values.data() + r * cols, cols, metric), r});
  }
  std::sort(all.begin(), all.end(), comes_before);
  return all;
}

struct Case {
  Metric metric = Metric::cosine;
  int64_t k = 1;
  int64_t first_id = 0;
  uint32_t seed = 1;
  int64_t scratch_limit = int64_t{1} << 30;
  int pieces = 1;  // the gallery is searched in so many, each carrying on the last
  bool coarse = true;
  bool bytes = false;  // coarse scores are in int8
  DeviceFacts device{.compute = 90, .multiprocessors = 4, .shared_bytes = 227 << 10, .memory_bytes = int64_t{1} << 30};
  int path = -1;           // the plan's choice, or a Path
  bool wgmma = false;      // the fused path on sm_90a's instructions
  int64_t chunk_rows = 0;  // the plan's, or so many
  int64_t stripes = 0;
  int64_t kept = 0;
  int64_t paces = -1;  // pieces after which the caller wants to stop
};

struct Found {
  std::vector<float> scores;
  std::vector<int64_t> ids;
  int64_t unproved = 0;
  Plan plan;
};

inline bool is_aligned(const MatrixView& view) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.row_stride * size_of(view.dtype) % 16 == 0;
}

// Makes the plan, changes it as the case says, and runs it.
inline Found run(const Case& c, const MatrixView& queries, const MatrixView& gallery) {
  Found found;
  found.scores.assign(static_cast<std::size_t>(queries.rows * c.k), -12345.0f);
  found.ids.assign(static_cast<std::size_t>(queries.rows * c.k), -12345);
  // The first piece holds at least k rows, as the caller promises.
  int64_t first = 0;
  for (int piece = 0; piece < c.pieces; ++piece) {
    int64_t last = gallery.rows * (piece + 1) / c.pieces;
    last = piece + 1 == c.pieces ? gallery.rows : std::max(last, c.k);
    MatrixView rows = gallery;
    rows.data = gallery.row(first);
    rows.rows = last - first;
    const Shape shape{.queries = queries.rows,
                      .rows = rows.rows,
                      .cols = rows.cols,
                      .k = c.k,
                      .query_dtype = queries.dtype,
                      .gallery_dtype = rows.dtype,
                      .gallery_aligned = is_aligned(rows),
                      .coarse = c.coarse,
                      .bytes = c.coarse && c.bytes};
    Plan plan = make_plan(shape, c.device, c.scratch_limit);
    if (c.path >= 0 && plan.path != Path::exact) plan.path = static_cast<Path>(c.path);
    if (c.chunk_rows) plan.chunk_rows = plan.exact_chunk_rows = c.chunk_rows;
    plan.wgmma = c.wgmma && plan.path == Path::fused;
    if (c.stripes) plan.stripes = plan.exact_stripes = c.stripes;
    if (c.kept && plan.kept) plan.kept = c.kept;
    plan.scratch_bytes = place_scratch(plan, rows.cols, c.k, nullptr).bytes;
    const Memory scratch(plan.scratch_bytes);
    const Call call{.queries = queries,
                    .gallery = rows,
                    .metric = c.metric,
                    .k = c.k,
                    .first_id = c.first_id + first,
                    .seeded = piece > 0,
                    .scores = found.scores.data(),
                    .ids = found.ids.data(),
                    .scratch = scratch.data()};
    ShimDevice device(c.seed * 1000003u + static_cast<uint32_t>(piece), c.paces);
    found.unproved += search(device, plan, call).unproved;
    found.plan = plan;
    first = last;
  }
  return found;
}

inline std::string name(const Case& c, const MatrixView& queries, const MatrixView& gallery) {
  return "metric " + std::to_string(static_cast<int>(c.metric)) + " queries " + std::to_string(queries.rows) +
         " rows " + std::to_string(gallery.rows) + " cols " + std::to_string(gallery.cols) + " k " +
         std::to_string(c.k) + " dtypes " + std::to_string(static_cast<int>(queries.dtype)) +
         std::to_string(static_cast<int>(gallery.dtype)) + " path " + std::to_string(c.path) +
         (c.wgmma ? " wgmma" : "") + (c.bytes ? " int8" : "") + " chunk " + std::to_string(c.chunk_rows) + " stripes " +
         std::to_string(c.stripes) + " kept " + std::to_string(c.kept) + " pieces " + std::to_string(c.pieces) +
         " seed " + std::to_string(c.seed);
}

// Same bits as the oracle, ids included.
inline void check_result(const Case& c, const Stored& queries, const Stored& gallery, const Found& found,
                         const std::vector<std::vector<Result>>& expected) {
  for (int64_t q = 0; q < queries.view.rows; ++q) {
    for (int64_t i = 0; i < c.k; ++i) {
      const Result& want = expected[q][i];
      const float sign = c.metric == Metric::l2 ? -1.0f : 1.0f;
      const float score = found.scores[q * c.k + i];
      const bool same = std::isnan(want.score) ? std::isnan(score)
                                               : score == sign * want.score && !(score == 0 && std::signbit(score));
      if (same && found.ids[q * c.k + i] == c.first_id + want.id) continue;
      std::fprintf(stderr, "%s\n%s\nquery %ld place %ld: got %.9g id %ld, want %.9g id %ld\n",
                   name(c, queries.view, gallery.view).c_str(), found.plan.describe().c_str(), static_cast<long>(q),
                   static_cast<long>(i), static_cast<double>(score), static_cast<long>(found.ids[q * c.k + i]),
                   static_cast<double>(sign * want.score), static_cast<long>(c.first_id + want.id));
      std::exit(1);
    }
  }
}

inline std::vector<std::vector<Result>> expect(const Case& c, const Stored& queries, const Stored& gallery) {
  std::vector<std::vector<Result>> expected;
  for (int64_t q = 0; q < queries.view.rows; ++q) {
    expected.push_back(ranked(queries.values.data() + q * queries.view.cols, gallery, c.metric));
  }
  return expected;
}

inline Found check_case(const Case& c, const Stored& queries, const Stored& gallery) {
  const Found found = run(c, queries.view, gallery.view);
  check_result(c, queries, gallery, found, expect(c, queries, gallery));
  return found;
}

inline std::vector<float> normal_values(int64_t count, uint32_t seed, float scale = 1.0f) {
  std::vector<float> values(static_cast<std::size_t>(count));
  fct::testing::fill_normal(values.data(), count, seed);
  for (float& value : values) value *= scale;
  return values;
}

}  // namespace fct::cuda::topk::testing
