// The ring of stages in shared memory: rows of x and of the weights, 128 bytes of depth each, filled by cp.async.
//
// A row's eight chunks are swizzled, chunk c of row r at place c ^ (r % 8), so that the eight rows that one ldmatrix
// phase reads at one depth lie in different banks.
#pragma once

#include "cuda/simt/simt.hpp"
#include "cuda/upgrade/args.hpp"
#include "cuda/upgrade/tile.hpp"

namespace fct::cuda {

FCT_DEVICE int chunk_at(int row, int chunk) { return row * kStepBytes + ((chunk ^ (row & 7)) * kChunkBytes); }

// The steps of depth that a block takes; of all of them where it shares its tile with no other.
struct Steps {
  int first;
  int end;
};

template <typename Element>
constexpr int kStepElements = kStepBytes / static_cast<int>(sizeof(Element));

template <typename Element>
FCT_DEVICE Steps all_steps(const LayerArgs& args) {
  return {0, (args.depth + kStepElements<Element> - 1) / kStepElements<Element>};
}

template <typename Element, typename T>
class StageRing {
 public:
  static constexpr int kChunkElements = kChunkBytes / static_cast<int>(sizeof(Element));

  FCT_DEVICE StageRing(const LayerArgs& args, unsigned char* shared, int64_t first_row, int first_column, Steps taken)
      : shared_(shared), depth_(args.depth - taken.first * kStepElements<Element>), steps_(taken.end - taken.first) {
    // A thread fills the same chunk of every kRowStep-th row.
    row_ = thread_index() / kStepChunks;
    chunk_ = thread_index() % kStepChunks;
    x_.base = static_cast<const Element*>(args.x);
    x_.first =
        x_.base + (first_row + row_) * args.x_stride + chunk_ * kChunkElements + taken.first * kStepElements<Element>;
    x_.stride = args.x_stride;
    const int64_t rows_left = args.rows - first_row;
    x_.rows = rows_left < T::kRows ? static_cast<int>(rows_left) : T::kRows;
    weight_.base = static_cast<const Element*>(args.weight);
    weight_.first = weight_.base + static_cast<int64_t>(first_column + row_) * args.depth + chunk_ * kChunkElements +
                    taken.first * kStepElements<Element>;
    weight_.stride = args.depth;
    const int columns_left = args.columns - first_column;
    weight_.rows = columns_left < T::kColumns ? columns_left : T::kColumns;
  }

  FCT_DEVICE int steps() const { return steps_; }
  FCT_DEVICE const unsigned char* x_stage(int step) const { return stage(step); }
  FCT_DEVICE const unsigned char* weight_stage(int step) const { return stage(step) + T::kRows * kStepBytes; }

  // Steps count from the first that was taken. Fills the first stages. Each step has a group of its own, empty past the
  // last, so that waits count steps.
  FCT_DEVICE void start() {
    FCT_UNROLL
    for (int step = 0; step < T::kStages - 1; ++step) fill(step);
  }

  // Makes `step` readable, and starts on the one that takes the place of the step before.
  FCT_DEVICE void advance(int step) {
    copy_async_wait<T::kStages - 2>();
    sync_block();
    fill(step + T::kStages - 1);
  }

  // After the last step the stages are free. No copy is under way: the groups past the last step are empty.
  FCT_DEVICE void finish() { sync_block(); }

 private:
  struct Side {
    const Element* base;   // always an address that may be named
    const Element* first;  // this thread's first chunk at depth 0
    int64_t stride;
    int rows;  // that exist; the others are filled with zeros
  };

  static constexpr int kRowStep = T::kThreads / kStepChunks;

  FCT_DEVICE unsigned char* stage(int step) const { return shared_ + step % T::kStages * T::kStageBytes; }

  FCT_DEVICE void fill(int step) {
    if (step < steps_) {
      const int depth = step * kStepElements<Element>;
      const bool inside = depth + chunk_ * kChunkElements < depth_;
      unsigned char* const target = stage(step);
      fill_side<T::kRows>(x_, depth, inside, target);
      fill_side<T::kColumns>(weight_, depth, inside, target + T::kRows * kStepBytes);
    }
    copy_async_commit();
  }

  template <int Rows>
  FCT_DEVICE void fill_side(const Side& side, int depth, bool inside, unsigned char* target) {
    FCT_UNROLL
    for (int i = 0; i < Rows; i += kRowStep) {
      const int row = row_ + i;
      if (Rows % kRowStep != 0 && row >= Rows) break;
      const bool exists = inside && row < side.rows;
      copy_async_16(target + chunk_at(row, chunk_), exists ? side.first + i * side.stride + depth : side.base,
                    exists ? kChunkBytes : 0);
    }
  }

  unsigned char* const shared_;
  const int depth_;
  const int steps_;
  int row_;
  int chunk_;
  Side x_;
  Side weight_;
};

// Blocks walk the columns first: neighbours share the rows of x, and all share the weights, in L2.
struct TilePlace {
  int64_t first_row;
  int first_column;
};

template <typename T>
FCT_DEVICE TilePlace tile_place(const LayerArgs& args) {
  // 32 bits hold any block index, and divide without a call.
  uint32_t block = static_cast<uint32_t>(block_index());
  if constexpr (T::kSplits) block /= static_cast<uint32_t>(args.splits);  // the splits of a tile are neighbours
  const uint32_t across = static_cast<uint32_t>((args.columns + T::kColumns - 1) / T::kColumns);
  return {static_cast<int64_t>(block / across) * T::kRows, static_cast<int>(block % across) * T::kColumns};
}

}  // namespace fct::cuda
