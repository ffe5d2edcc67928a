#include "cuda/upgrade/tile_choice.hpp"

#include <algorithm>
#include <optional>

#include "core/error.hpp"
#include "cuda/upgrade/plan.hpp"
#include "cuda/upgrade/wgmma_tile.hpp"

namespace fct::cuda {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Of a multiprocessor, all predictions: nothing was measured yet.
constexpr double kMmaOutputsPerClock = 16;  // of one step, 64 elements of depth
constexpr double kFfmaOutputsPerClock = 4;  // 32 elements
constexpr double kPartsPerClock = 16;       // 4 bytes each, from L2
constexpr double kSplitClocks = 2000;       // writes made visible, an arrival, the first part back
constexpr int64_t kMostSplits = 32;

class Candidate {
 public:
  Candidate(Dtype precision, int64_t rows, const LayerLayout& layer, const TileFacts& tile)
      : fp32_(precision == Dtype::f32), tile_(tile), tiles_(blocks_of(tile, rows, layer.columns)) {
    steps_ = ceil_div(layer.depth * size_of(precision), kStepBytes);
    sums_ = ceil_div(steps_, kSplitSteps);
  }

  // Whole tiles do not even fill one wave: the case that splits are for.
  bool leaves_idle(const DeviceFacts& device) const { return tiles_ < device.multiprocessors; }

  // The most splits, up to `wanted`, that all get equal work but the last, and none nothing.
  int64_t splits(int64_t wanted) const { return ceil_div(sums_, ceil_div(sums_, std::min(wanted, sums_))); }

  // Waves of blocks over the multiprocessors, each as long as its tile's area takes at the tile's rate.
  double clocks(int64_t splits, const DeviceFacts& device) const {
    const int64_t waves = ceil_div(tiles_ * splits, device.multiprocessors);
    const int64_t steps = std::min(ceil_div(sums_, splits) * kSplitSteps, steps_);
    const double area = static_cast<double>(tile_.rows) * tile_.columns;
    const double work =
        static_cast<double>(waves * steps) * area / tile_.rate / (fp32_ ? kFfmaOutputsPerClock : kMmaOutputsPerClock);
    if (splits == 1) return work;
    return work + kSplitClocks + static_cast<double>(parts(splits)) * area / kPartsPerClock;
  }

  TileChoice choice(int64_t splits) const {
    return {.tile = tile_, .splits = static_cast<int32_t>(splits), .parts = parts(splits)};
  }

 private:
  // In float32 all sums of 64 products (layer_ffma.hpp).
  int64_t parts(int64_t splits) const { return splits == 1 ? 0 : fp32_ ? sums_ : splits; }

  bool fp32_;
  TileFacts tile_;
  int64_t tiles_;
  int64_t steps_;
  int64_t sums_;
};

// Tiles of wgmma alone where the device has it and rows are many; else those of every device.
std::vector<TileFacts> candidates(Dtype precision, int64_t rows, const DeviceFacts& device) {
  const bool wgmma = precision != Dtype::f32 && device.compute == kWgmmaCompute && rows >= kWgmmaRows &&
                     device.shared_bytes >= WgmmaWideTile::kSharedBytes &&
                     device.shared_bytes >= WgmmaNarrowTile::kSharedBytes;
  return wgmma ? std::vector<TileFacts>{kWgmmaTiles.begin(), kWgmmaTiles.end()} : tiles_of(precision);
}

}  // namespace

TileChoice choose_tile(Dtype precision, int64_t rows, const LayerLayout& layer, const DeviceFacts& device,
                       bool may_split) {
  std::optional<TileChoice> best;
  double least = 0;
  for (const TileFacts& tile : candidates(precision, rows, device)) {
    if (tile.shared_bytes > device.shared_bytes) continue;
    const Candidate candidate(precision, rows, layer, tile);
    const bool split = may_split && tile.splits && candidate.leaves_idle(device);
    for (int64_t wanted = 1; wanted <= (split ? kMostSplits : 1); ++wanted) {
      const int64_t splits = candidate.splits(wanted);
      const double clocks = candidate.clocks(splits, device);
      if (best && clocks >= least) continue;
      best = candidate.choice(splits);
      least = clocks;
    }
  }
  if (!best) {
    throw DeviceError("the device offers a block " + std::to_string(device.shared_bytes) +
                      " bytes of shared memory, and no kernel does with that");
  }
  return *best;
}

}  // namespace fct::cuda
