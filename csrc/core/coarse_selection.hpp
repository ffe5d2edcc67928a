// What a search in int8 knows of one query's best rows: entries whose scores lie within bounds, and what the threads
// tell each other of how good the best are.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "core/aligned_buffer.hpp"
#include "core/candidate.hpp"
#include "core/topk.hpp"

namespace fct {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// A row that may belong: its score lies within [low, high]; where it is known, both are the score, NaN included.
struct Entry {
  float low;
  float high;
  int64_t id;
  bool known() const { return !(low < high); }
};

inline bool before(const Entry& a, const Entry& b) { return better({a.low, a.id}, {b.low, b.id}); }

// Scores of scattered rows, with the bits that topk gives them.
class Rescorer {
 public:
  Rescorer(const KernelTable& kernels, const TopkCall& call) : kernels_(kernels), call_(call) {}

  // Makes all entries known.
  void settle(const float* query, std::span<Entry> entries) {
    pending_.clear();
    for (Entry& entry : entries) {
      if (!entry.known()) pending_.push_back(&entry);
    }
    for (std::size_t i = 0; i < pending_.size(); i += kBatch)
      settle_batch(query, std::span(pending_).subspan(i, std::min(kBatch, pending_.size() - i)));
  }

 private:
  static constexpr std::size_t kBatch = 64;
  static constexpr std::size_t kAhead = 4;  // rows that are asked for before their turn: each lies somewhere else

  void settle_batch(const float* query, std::span<Entry*> batch) {
    const int64_t depth = call_.queries.cols, stride = padded_stride(depth);
    const int64_t count = static_cast<int64_t>(batch.size());
    float* const rows = rows_.reserve(static_cast<std::size_t>(kBatch * stride));
    float* const panels = panels_.reserve(static_cast<std::size_t>(kBatch * depth));
    for (std::size_t i = 0; i < std::min(kAhead, batch.size()); ++i) ask_for(batch[i]->id);
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (i + kAhead < batch.size()) ask_for(batch[i + kAhead]->id);
      load_rows(kernels_, call_.gallery, call_.metric, batch[i]->id - call_.first_id, 1,
                rows + static_cast<int64_t>(i) * stride, stride);
    }
    const PackArgs pack{.x = rows, .x_stride = stride, .rows = count, .depth = depth, .panels = panels};
    kernels_.pack(&pack);
    float scores[kBatch];
    const TileArgs tile{.x = query,
                        .x_stride = depth,
                        .rows = 1,
                        .panels = panels,
                        .panel_count = panels_of(count),
                        .depth = depth,
                        .bias = nullptr,
                        .relu = false,
                        .product = product_of(call_.metric),
                        .y = scores,
                        .y_stride = kBatch};
    kernels_.tile(&tile);
    for (int64_t i = 0; i < count; ++i) batch[i]->low = batch[i]->high = scores[i];
  }

  // Always inline: see prefetch_share in cpu/tile_body.hpp.
  [[gnu::always_inline]] void ask_for(int64_t id) const {
    const unsigned char* const row = call_.gallery.row(id - call_.first_id);
    const int64_t bytes = call_.gallery.cols * size_of(call_.gallery.dtype);
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 0, 3);
  }

  const KernelTable& kernels_;
  const TopkCall& call_;
  std::vector<Entry*> pending_;
  AlignedBuffer<float> rows_, panels_;
};

// Scores of which each thread has seen so many rows that together they have k: the lowest of them is a floor for all.
class SharedFloors {
 public:
  SharedFloors(int threads, int64_t queries, int64_t k)
      : share_((k + threads - 1) / threads), threads_(threads), floors_(static_cast<std::size_t>(threads * queries)) {
    for (std::atomic<float>& floor : floors_) floor.store(kLowest, std::memory_order_relaxed);
  }

  // Rows that a thread must have seen at or above what it tells.
  int64_t share() const { return share_; }

  // Alone by the thread `slot`. Each number is true by itself, so no order among them is needed.
  void tell(int slot, int64_t query, float floor) {
    std::atomic<float>& mine = floors_[static_cast<std::size_t>(query * threads_ + slot)];
    if (floor > mine.load(std::memory_order_relaxed)) mine.store(floor, std::memory_order_relaxed);
  }

  float common(int64_t query) const {
    const auto first = floors_.begin() + query * threads_;
    float lowest = first->load(std::memory_order_relaxed);
    for (int i = 1; i < threads_; ++i) lowest = std::min(lowest, (first + i)->load(std::memory_order_relaxed));
    return lowest;
  }

 private:
  int64_t share_;
  int threads_;
  std::vector<std::atomic<float>> floors_;  // [queries, threads]
};

// What one thread knows of one query's best rows: always a superset of those among the best k of all that it saw.
class CoarseSelection {
 public:
  CoarseSelection(int64_t k, int64_t budget, SharedFloors& shared, int slot, int64_t query)
      : k_(k), budget_(budget), shared_(&shared), slot_(slot), query_(query) {}

  static int64_t capacity_for(int64_t k) { return 4 * k + 256; }

  // A row whose score is below this cannot belong.
  float floor() const { return floor_; }
  const std::vector<Entry>& entries() const { return entries_; }
  // More rows had to be looked at again than pays.
  bool gave_up() const { return budget_ < 0; }

  // Takes in what other threads have seen since.
  void refresh() { floor_ = std::max(floor_, shared_->common(query_)); }

  void add(const Entry& entry, const float* query, Rescorer& rescorer) {
    if (static_cast<int64_t>(entries_.size()) == capacity_for(k_)) prune(query, rescorer);
    if (!(entry.high < floor_)) entries_.push_back(entry);  // NaN belongs where nothing else does
  }

 private:
  void prune(const float* query, Rescorer& rescorer) {
    drop_below_floor();
    if (static_cast<int64_t>(entries_.size()) <= capacity_for(k_) / 4 * 3) return;
    budget_ -= std::count_if(entries_.begin(), entries_.end(), [](const Entry& entry) { return !entry.known(); });
    if (gave_up()) {
      entries_.clear();
      floor_ = -kLowest;
      return;
    }
    rescorer.settle(query, entries_);
    std::nth_element(entries_.begin(), entries_.begin() + (k_ - 1), entries_.end(), before);
    entries_.resize(static_cast<std::size_t>(k_));
    drop_below_floor();
  }

  // k entries or more.
  void drop_below_floor() {
    thread_local std::vector<float> lows;  // alone: numbers are sorted several times as fast as entries
    lows.clear();
    for (const Entry& entry : entries_) lows.push_back(std::isnan(entry.low) ? kLowest : entry.low);
    const auto kth = lows.begin() + (k_ - 1), last_of_share = lows.begin() + (shared_->share() - 1);
    std::nth_element(lows.begin(), kth, lows.end(), std::greater<>());
    floor_ = std::max(floor_, *kth);
    std::nth_element(lows.begin(), last_of_share, kth + 1, std::greater<>());
    shared_->tell(slot_, query_, *last_of_share);
    refresh();
    std::erase_if(entries_, [this](const Entry& entry) { return entry.high < floor_; });
  }

  int64_t k_;
  int64_t budget_;
  SharedFloors* shared_;
  int slot_;
  int64_t query_;  // of the block
  std::vector<Entry> entries_;
  float floor_ = kLowest;
};

// Puts the best k of what all threads have found to the front, known and in order.
inline void settle_best(std::vector<Entry>& all, int64_t k, const float* query, Rescorer& rescorer) {
  // Those that seem best most likely are, and once they are known, fewer of the others are in doubt.
  const auto best = std::span(all).first(static_cast<std::size_t>(k));
  std::nth_element(all.begin(), all.begin() + (k - 1), all.end(), before);
  rescorer.settle(query, best);
  float floor = -kLowest;
  for (const Entry& entry : best) floor = std::min(floor, entry.low);  // where one is NaN, none but NaN is left
  all.erase(std::remove_if(all.begin() + k, all.end(), [floor](const Entry& entry) { return entry.high < floor; }),
            all.end());
  rescorer.settle(query, all);
  std::partial_sort(all.begin(), all.begin() + k, all.end(), before);
}

}  // namespace fct
