#include "core/topk.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "core/aligned_buffer.hpp"
#include "core/candidate.hpp"
#include "core/error.hpp"

namespace fct {
namespace {

constexpr int64_t kBlockRows = 256;    // gallery rows scored at a time: 128 KiB of panels at 128 dims
constexpr int64_t kTaskRows = 4096;    // gallery rows a task, at most
constexpr int64_t kStripQueries = 48;  // queries scored at a time: a strip of 48 x 256 scores stays in L1 and L2
constexpr int64_t kTaskProducts = 1'000'000'000;        // multiply-adds a task, so that a stop is noticed in time
constexpr int64_t kCandidateBytes = int64_t{32} << 20;  // candidates of a block of queries, all threads

int64_t capacity_for(int64_t k) { return 2 * k + 128; }

// The best k of what one thread saw for one query. Ids must arrive in ascending order, so that a later equal score
// never wins.
class Selection {
 public:
  Selection(int64_t k, int64_t capacity) : k_(k), capacity_(capacity) {}

  // Whether scores have to beat a threshold; until k numbers were seen, everything is taken.
  bool has_threshold() const { return has_threshold_; }
  float threshold() const { return threshold_; }

  void add(float score, int64_t id) {
    if (static_cast<int64_t>(found_.size()) == capacity_) keep_best();
    if (has_threshold_ && !(score > threshold_)) return;
    found_.push_back({score, id});
  }

  const std::vector<Candidate>& found() const { return found_; }

 private:
  void keep_best() {
    std::nth_element(found_.begin(), found_.begin() + (k_ - 1), found_.end(), better);
    found_.resize(static_cast<std::size_t>(k_));
    threshold_ = found_.back().score;
    // NaN or -inf as the k-th score: a later -inf or NaN could still belong, so nothing may be filtered away yet.
    has_threshold_ = threshold_ > -std::numeric_limits<float>::infinity();
  }

  int64_t k_;
  int64_t capacity_;
  std::vector<Candidate> found_;
  float threshold_ = 0.0f;
  bool has_threshold_ = false;
};

// What one thread needs: its selections for the block of queries, and working memory.
struct Worker {
  std::vector<Selection> selections;
  AlignedBuffer<float> scratch;
  AlignedBuffer<float> panels;
  AlignedBuffer<float> strip;
  int32_t positions[kBlockRows];
};

class BlockSearch {
 public:
  BlockSearch(const KernelTable& kernels, const TopkCall& call) : kernels_(kernels), call_(call) {}

  void run(int64_t first_query, int64_t count, const StopFn& stop) {
    load_queries(first_query, count);
    const int64_t fitting = kTaskProducts / (count * call_.queries.cols) / kBlockRows * kBlockRows;
    const int64_t task_rows = std::clamp(fitting, kBlockRows, kTaskRows);
    const int64_t tasks = (call_.gallery.rows + task_rows - 1) / task_rows;
    const int threads = static_cast<int>(std::clamp<int64_t>(call_.threads, 1, std::max<int64_t>(tasks, 1)));
    workers_ = std::vector<Worker>(static_cast<std::size_t>(threads));
    for (Worker& worker : workers_) {
      worker.selections.assign(static_cast<std::size_t>(count), Selection(call_.k, capacity_for(call_.k)));
    }
    if (call_.seeded) seed(first_query);
    parallel_for(
        tasks, threads,
        [&](int64_t task, int slot) {
          const int64_t first = task * task_rows;
          const int64_t last = std::min(first + task_rows, call_.gallery.rows);
          for (int64_t r = first; r < last; r += kBlockRows) scan(workers_[slot], r, std::min(kBlockRows, last - r));
        },
        stop);
    parallel_for(count, threads, [&](int64_t query, int) { write_best(first_query, query); }, stop);
  }

 private:
  void load_queries(int64_t first, int64_t count) {
    count_ = count;
    query_stride_ = padded_stride(call_.queries.cols);
    queries_.reserve(static_cast<std::size_t>(count * query_stride_));
    load_rows(kernels_, call_.queries, call_.metric, first, count, queries_.data(), query_stride_);
  }

  void seed(int64_t first_query) {
    for (int64_t q = 0; q < count_; ++q) {
      for (int64_t i = 0; i < call_.k; ++i) {
        const int64_t at = (first_query + q) * call_.k + i;
        workers_[0].selections[q].add(sign() * call_.scores[at], call_.ids[at]);
      }
    }
  }

  float sign() const { return call_.metric == Metric::l2 ? -1.0f : 1.0f; }

  void scan(Worker& worker, int64_t first_row, int64_t rows) {
    const int64_t depth = call_.queries.cols;
    const float* panels = nullptr;
    if (call_.panels) {
      panels = call_.panels + first_row * depth;
    } else {
      float* const packed = worker.panels.reserve(static_cast<std::size_t>(kBlockRows * depth));
      load_panels(kernels_, call_.gallery, call_.metric, first_row, rows, worker.scratch, packed);
      panels = packed;
    }
    float* const strip = worker.strip.reserve(static_cast<std::size_t>(kStripQueries * kBlockRows));
    for (int64_t q = 0; q < count_; q += kStripQueries) {
      const int64_t queries = std::min(kStripQueries, count_ - q);
      const TileArgs tile{.x = queries_.data() + q * query_stride_,
                          .x_stride = query_stride_,
                          .rows = queries,
                          .panels = panels,
                          .panel_count = panels_of(rows),
                          .depth = depth,
                          .bias = nullptr,
                          .relu = false,
                          .product = product_of(call_.metric),
                          .y = strip,
                          .y_stride = kBlockRows};
      kernels_.tile(&tile);
      for (int64_t i = 0; i < queries; ++i) {
        select(worker, worker.selections[q + i], strip + i * kBlockRows, rows, call_.first_id + first_row);
      }
    }
  }

  void select(Worker& worker, Selection& selection, const float* scores, int64_t count, int64_t first_id) {
    if (!selection.has_threshold()) {
      for (int64_t i = 0; i < count; ++i) selection.add(scores[i], first_id + i);
      return;
    }
    const FilterArgs args{
        .scores = scores, .count = count, .threshold = selection.threshold(), .positions = worker.positions};
    const int64_t found = kernels_.filter(&args);
    for (int64_t i = 0; i < found; ++i) selection.add(scores[worker.positions[i]], first_id + worker.positions[i]);
  }

  void write_best(int64_t first_query, int64_t query) {
    std::vector<Candidate> all;
    for (const Worker& worker : workers_) {
      const std::vector<Candidate>& found = worker.selections[query].found();
      all.insert(all.end(), found.begin(), found.end());
    }
    std::partial_sort(all.begin(), all.begin() + call_.k, all.end(), better);
    for (int64_t i = 0; i < call_.k; ++i) {
      const int64_t at = (first_query + query) * call_.k + i;
      call_.scores[at] = sign() * all[i].score + 0.0f;  // no negative zero
      call_.ids[at] = all[i].id;
    }
  }

  const KernelTable& kernels_;
  const TopkCall& call_;
  int64_t count_ = 0;
  int64_t query_stride_ = 0;
  AlignedBuffer<float> queries_;
  std::vector<Worker> workers_;
};

}  // namespace

void topk(CpuLevel level, const TopkCall& call, const StopFn& stop) {
  const KernelTable& kernels = kernels_of(level);
  const int64_t seen = call.gallery.rows + (call.seeded ? call.k : 0);
  if (call.k < 1 || call.k > seen) throw ShapeError("k is out of range for this gallery");
  if (call.queries.cols < 1) throw ShapeError("rows without columns have no scores");
  const int64_t per_query = capacity_for(call.k) * static_cast<int64_t>(sizeof(Candidate)) * std::max(1, call.threads);
  const int64_t fitting = std::min(kCandidateBytes / per_query, kTaskProducts / (kBlockRows * call.queries.cols));
  const int64_t step = std::max(kStripQueries, fitting / kStripQueries * kStripQueries);
  for (int64_t q = 0; q < call.queries.rows; q += step) {
    BlockSearch(kernels, call).run(q, std::min(step, call.queries.rows - q), stop);
  }
}

void pack_gallery(CpuLevel level, const MatrixView& gallery, Metric metric, float* panels, int threads,
                  const StopFn& stop) {
  const KernelTable& kernels = kernels_of(level);
  parallel_for((gallery.rows + kBlockRows - 1) / kBlockRows, threads,
               [&](int64_t block, int) {
                 AlignedBuffer<float> scratch;
                 const int64_t first = block * kBlockRows;
                 load_panels(kernels, gallery, metric, first, std::min(kBlockRows, gallery.rows - first), scratch,
                             panels + first * gallery.cols);
               },
               stop);
}

}  // namespace fct
