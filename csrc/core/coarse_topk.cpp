#include "core/coarse_topk.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/aligned_buffer.hpp"
#include "core/coarse_selection.hpp"
#include "core/error.hpp"

namespace fct {
namespace {

constexpr int64_t kBlockRows = kCoarseBlockRows;
constexpr int64_t kTaskRows = 4096;    // gallery rows a task, at most
constexpr int64_t kStripQueries = 48;  // queries scored at a time: a strip of 48 x 256 scores stays in L1 and L2
constexpr int64_t kTaskProducts = 2'000'000'000;        // multiply-adds a task, so that a stop is noticed in time
constexpr int64_t kCandidateBytes = int64_t{32} << 20;  // candidates of a block of queries, all threads
// Looking again at one row costs about as much as the float32 scores of 64 rows in sequence.
constexpr int64_t kRescoreCost = 64;
constexpr double kEpsilon = 0x1p-24;  // of one float32 rounding
constexpr double kUnderflow = 1e-37;  // more than all that underflow may take from a score
constexpr int kOffset = 128;          // what is added to a query's bytes

// A float32 below x, by more than the conversion may raise it. std::nextafter would be a call of the C library, twice
// for each row that passes the filter.
float below(double x) { return static_cast<float>(x - std::fabs(x) * 2 * kEpsilon - kUnderflow); }

struct Query {
  double scale;  // what the int8 scores are multiplied by
  double norm;
  double coarse_norm;
  double residual;
  bool hard;  // topk's business
};

struct Worker {
  Worker(const KernelTable& kernels, const TopkCall& call) : rescorer(kernels, call) {}
  Rescorer rescorer;
  std::vector<CoarseSelection> selections;
  AlignedBuffer<float> strip;
  int32_t positions[kBlockRows];
};

class CoarseSearch {
 public:
  CoarseSearch(CpuLevel level, const TopkCall& call, const CoarseGallery& coarse)
      : kernels_(kernels_of(level)), int8_(int8_kernels_of(level)), call_(call), coarse_(coarse) {
    // |float32 score - true score| <= this * |query| |row|: runs of 128 products, their sum, and some room.
    const int64_t runs = (coarse.dim + kDepthRun - 1) / kDepthRun;
    exact_error_ = static_cast<double>(std::min(coarse.dim, kDepthRun) + runs + 8) * kEpsilon;
    // Of float(sum) * scale + bias, in units of the query's scale and of the row's norm: the sum of |q| is at most
    // sqrt(dim) times its norm, the sum of products at most 255 times that.
    rounding_error_ = 1280.0 * std::sqrt(static_cast<double>(coarse.dim)) * kEpsilon;
  }

  // Returns which of queries [first, first + count) are hard.
  std::vector<bool> run(int64_t first, int64_t count, const StopFn& stop) {
    load_queries(first, count);
    const int64_t fitting = kTaskProducts / (count * coarse_.dim) / kBlockRows * kBlockRows;
    const int64_t task_rows = std::clamp(fitting, kBlockRows, kTaskRows);
    const int64_t tasks = (coarse_.rows + task_rows - 1) / task_rows;
    const int threads = static_cast<int>(std::clamp<int64_t>(call_.threads, 1, std::max<int64_t>(tasks, 1)));
    const int64_t budget = (8 * call_.k + coarse_.rows / kRescoreCost) / threads;
    SharedFloors floors(threads, count, call_.k);
    for (int slot = 0; slot < threads; ++slot) {
      workers_.emplace_back(kernels_, call_);
      for (int64_t q = 0; q < count; ++q) workers_.back().selections.emplace_back(call_.k, budget, floors, slot, q);
    }
    if (call_.seeded) seed(first);
    parallel_for(
        tasks, threads,
        [&](int64_t task, int slot) {
          const int64_t begin = task * task_rows;
          const int64_t end = std::min(begin + task_rows, coarse_.rows);
          for (CoarseSelection& selection : workers_[slot].selections) selection.refresh();
          for (int64_t r = begin; r < end; r += kBlockRows) scan(workers_[slot], r, std::min(kBlockRows, end - r));
        },
        stop);
    for (const Worker& worker : workers_) {
      for (int64_t q = 0; q < count; ++q) facts_[q].hard = facts_[q].hard || worker.selections[q].gave_up();
    }
    parallel_for(count, threads, [&](int64_t q, int slot) { write_best(first, q, workers_[slot].rescorer); }, stop);
    std::vector<bool> hard(static_cast<std::size_t>(count));
    for (int64_t q = 0; q < count; ++q) hard[q] = facts_[q].hard;
    return hard;
  }

 private:
  void load_queries(int64_t first, int64_t count) {
    const int64_t dim = coarse_.dim, depth = 4 * coarse_.quads;
    count_ = count;
    queries_.reserve(static_cast<std::size_t>(count * dim));
    load_rows(kernels_, call_.queries, call_.metric, first, count, queries_.data(), dim);
    bytes_.reserve(static_cast<std::size_t>(count * depth));
    for (int64_t q = 0; q < count; ++q) {
      unsigned char* const bytes = bytes_.data() + q * depth;
      const float scale = quantize_row(query(q), dim, coarse_.quads, kOffset, bytes);
      const RowLoss loss = loss_of(query(q), dim, scale, kOffset, bytes);
      facts_.push_back({.scale = scale,
                        .norm = loss.norm,
                        .coarse_norm = loss.norm + loss.residual,
                        .residual = loss.residual,
                        // Also where the query is zero, or its scale nearly so: scores are then ties, or all but.
                        .hard = !(loss.norm < kLongestRow) || !(scale > 1e-30f)});
    }
  }

  const float* query(int64_t q) const { return queries_.data() + q * coarse_.dim; }

  void seed(int64_t first_query) {
    for (int64_t q = 0; q < count_; ++q) {
      for (int64_t i = 0; i < call_.k; ++i) {
        const int64_t at = (first_query + q) * call_.k + i;
        workers_[0].selections[q].add({call_.scores[at], call_.scores[at], call_.ids[at]}, query(q),
                                      workers_[0].rescorer);
      }
    }
  }

  void scan(Worker& worker, int64_t first_row, int64_t rows) {
    const int64_t depth = 4 * coarse_.quads;
    const CoarseBlock& block = coarse_.blocks[first_row / kBlockRows];
    float* const strip = worker.strip.reserve(static_cast<std::size_t>(kStripQueries * kBlockRows));
    for (int64_t q = 0; q < count_; q += kStripQueries) {
      const int64_t queries = std::min(kStripQueries, count_ - q);
      const Int8TileArgs tile{.x = bytes_.data() + q * depth,
                              .x_stride = depth,
                              .rows = queries,
                              .panels = coarse_.panels + first_row * depth,
                              .panel_count = panels_of(rows),
                              .quads = coarse_.quads,
                              .scale = coarse_.scale + first_row,
                              .bias = coarse_.bias + first_row,
                              .relu = false,
                              .y = strip,
                              .y_stride = kBlockRows,
                              .narrow = false};
      int8_.tile(&tile);
      for (int64_t i = 0; i < queries; ++i) {
        if (!facts_[q + i].hard) select(worker, q + i, strip + i * kBlockRows, rows, first_row, block);
      }
    }
  }

  // |int8 score - float32 score|, at most, of any row of the block.
  double error_of(const Query& query, const CoarseBlock& block) const {
    const double norm = block.norm;
    return query.residual * norm + query.coarse_norm * block.residual +
           rounding_error_ * query.scale * (norm + block.residual) + exact_error_ * query.norm * norm + kUnderflow;
  }

  void select(Worker& worker, int64_t q, const float* scores, int64_t rows, int64_t first_row,
              const CoarseBlock& block) {
    CoarseSelection& selection = worker.selections[q];
    const Query& facts = facts_[q];
    const double error = error_of(facts, block);
    const FilterArgs args{.scores = scores,
                          .count = rows,
                          .threshold = below((selection.floor() - error) / facts.scale),
                          .positions = worker.positions};
    const int64_t found = kernels_.filter(&args);
    for (int64_t i = 0; i < found; ++i) {
      const double score = facts.scale * scores[worker.positions[i]];
      // Never equal: equal is for what is known.
      const Entry entry{.low = below(score - error),
                        .high = -below(-score - error),
                        .id = call_.first_id + first_row + worker.positions[i]};
      selection.add(entry, query(q), worker.rescorer);
    }
  }

  void write_best(int64_t first_query, int64_t q, Rescorer& rescorer) {
    if (facts_[q].hard) return;
    std::vector<Entry> all;
    for (const Worker& worker : workers_) {
      const std::vector<Entry>& found = worker.selections[q].entries();
      all.insert(all.end(), found.begin(), found.end());
    }
    settle_best(all, call_.k, query(q), rescorer);
    for (int64_t i = 0; i < call_.k; ++i) {
      const int64_t at = (first_query + q) * call_.k + i;
      call_.scores[at] = all[static_cast<std::size_t>(i)].low + 0.0f;  // no negative zero
      call_.ids[at] = all[static_cast<std::size_t>(i)].id;
    }
  }

  const KernelTable& kernels_;
  const Int8Table& int8_;
  const TopkCall& call_;
  const CoarseGallery& coarse_;
  double exact_error_, rounding_error_;
  int64_t count_ = 0;
  AlignedBuffer<float> queries_;        // [count, dim]
  AlignedBuffer<unsigned char> bytes_;  // [count, 4 * quads]
  std::vector<Query> facts_;
  std::vector<Worker> workers_;
};

// topk for queries [first, first + count) of the call.
void exact(CpuLevel level, const TopkCall& call, int64_t first, int64_t count, const StopFn& stop) {
  TopkCall part = call;
  part.queries.data = call.queries.row(first);
  part.queries.rows = count;
  part.scores = call.scores + first * call.k;
  part.ids = call.ids + first * call.k;
  topk(level, part, stop);
}

}  // namespace

void topk_coarse(CpuLevel level, const TopkCall& call, const CoarseGallery& coarse, const StopFn& stop) {
  if (coarse.rows != call.gallery.rows || coarse.dim != call.gallery.cols || call.queries.cols != coarse.dim)
    throw ShapeError("the int8 gallery was packed from other rows");
  if (call.metric == Metric::l2) throw ShapeError("int8 scores are of inner products, not of l2 distances");
  const int64_t seen = call.gallery.rows + (call.seeded ? call.k : 0);
  if (call.k < 1 || call.k > seen) throw ShapeError("k is out of range for this gallery");
  if (!coarse.sound) return topk(level, call, stop);
  const int64_t per_query =
      CoarseSelection::capacity_for(call.k) * static_cast<int64_t>(sizeof(Entry)) * std::max(1, call.threads);
  const int64_t fitting = std::min(kCandidateBytes / per_query, kTaskProducts / (kBlockRows * coarse.dim));
  const int64_t most = std::max(kStripQueries, fitting / kStripQueries * kStripQueries);
  // Blocks of all but the same size: each reads the gallery.
  const int64_t blocks = (call.queries.rows + most - 1) / most;
  const int64_t strips = (call.queries.rows + kStripQueries - 1) / kStripQueries;
  const int64_t step = blocks == 0 ? most : (strips + blocks - 1) / blocks * kStripQueries;
  std::vector<bool> hard;
  for (int64_t q = 0; q < call.queries.rows; q += step) {
    const std::vector<bool> part =
        CoarseSearch(level, call, coarse).run(q, std::min(step, call.queries.rows - q), stop);
    hard.insert(hard.end(), part.begin(), part.end());
  }
  for (int64_t q = 0, end = 0; q < call.queries.rows; q = end + 1) {
    for (end = q; end < call.queries.rows && hard[static_cast<std::size_t>(end)];) ++end;
    if (end > q) exact(level, call, q, end - q, stop);
  }
}

}  // namespace fct
