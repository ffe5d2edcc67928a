#include "core/upgrade.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/stages.hpp"
#include "core/upgrade_block.hpp"
#include "core/upgrade_int8.hpp"
#include "core/upgrade_rows.hpp"

namespace fct {
namespace {

// Rows of a block: the more, the less often the weights come from L3; the fewer, the nearer their activations stay.
// Measured on a core with 1 MiB of L2 (docs/decisions.md): flat from 1.3 to 3.4 MB of activations, 15 % slower at 0.6
// MB.
constexpr int64_t kActivationBytes = 1700 * 1024;
constexpr int64_t kMinBlockRows = 12;
constexpr int64_t kRowMultiple = 12;  // whole register tiles at every level

// Up to this many blocks a thread, threads share the columns of each layer, one block after the other: a share of so
// few rows would have each thread read all weights, or leave one waiting for another's last block.
constexpr int64_t kColumnBlocks = 2;
constexpr int64_t kTaskPanels = 4;  // whole register tiles at every level
// Work in nanoseconds of a core, roughly.
constexpr int64_t kTaskTime = 6'400;  // a task of panels, against the cost of taking it
constexpr int64_t kThreadTime =
    600'000;  // for one more thread, which may be busy elsewhere: then the whole stage waits

// How fast layers that read floats, or bytes, are computed.
struct Pace {
  int64_t products;  // multiply-adds a nanosecond
  int64_t rows;      // up to so many the reading of the weights sets the pace
};
constexpr Pace kFloatPace{25, 5};
constexpr Pace kBytePace{40, 3};

int64_t fitting_rows(const PackedTransform& packed, int64_t element_bytes) {
  const int64_t row_bytes = 2 * element_bytes * padded_stride(packed.widest);
  const int64_t fitting = kActivationBytes / row_bytes / kRowMultiple * kRowMultiple;
  return std::clamp(fitting, kMinBlockRows, kMaxBlockRows);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void check(const PackedTransform& packed, CpuLevel level, const UpgradeCall& call) {
  const auto want = [](const char* name, int64_t rows, int64_t cols, int64_t want_rows, int64_t want_cols) {
    if (rows == want_rows && cols == want_cols) return;
    throw ShapeError(std::string(name) + " is [" + std::to_string(rows) + ", " + std::to_string(cols) +
                     "], expected [" + std::to_string(want_rows) + ", " + std::to_string(want_cols) + "]");
  };
  want("old", call.old.rows, call.old.cols, call.old.rows, packed.old_dim);
  if (packed.side_dim > 0) want("side", call.side.rows, call.side.cols, call.old.rows, packed.side_dim);
  want("out", call.out.rows, call.out.cols, call.old.rows, packed.new_dim);
  if (call.uncertainty && !packed.uncertainty) throw ShapeError("this transform has no uncertainty head");
  if (packed.precision == Precision::bf16 && bf16_kernels_of(level) == nullptr) {
    throw DeviceError("precision 'bf16' needs AVX-512 BF16, which level '" + std::string(name_of(level)) +
                      "' of this machine lacks; use 'fp32'");
  }
}

int64_t panel_time(const PackedLayer& layer, int64_t rows) {
  const Pace& pace = layer.scale != nullptr ? kBytePace : kFloatPace;
  return layer.in_dim * kPanelWidth * std::max(rows, pace.rows) / pace.products + 1;
}

// Threads that pay for their wake-up.
int useful_threads(const PackedTransform& packed, int64_t rows, int threads) {
  int64_t time = 0;
  const auto add = [&](const std::vector<PackedLayer>& layers) {
    for (const PackedLayer& layer : layers) time += layer.panel_count() * panel_time(layer, rows);
  };
  for (const PackedBranch& branch : packed.branches) add(branch.layers);
  add(packed.trunk);
  return static_cast<int>(std::clamp<int64_t>(time / kThreadTime, 1, std::max(threads, 1)));
}

// run(first row, rows) for each block of rows: at most `most`, as many blocks for each thread, and all but equal, so
// that no thread waits for another's last block. `most` is a multiple of kRowMultiple.
template <typename Run>
void share_rows(int64_t rows, int64_t most, int threads, const StopFn& stop, Run run) {
  const int64_t tiles = ceil_div(rows, kRowMultiple);
  const int64_t blocks = std::min(tiles, ceil_div(rows, most * threads) * threads);
  parallel_for(
      blocks, threads,
      [&](int64_t block, int) {
        const int64_t first = tiles * block / blocks * kRowMultiple;
        const int64_t end = std::min(rows, tiles * (block + 1) / blocks * kRowMultiple);
        run(first, end - first);
      },
      stop);
}

template <typename Engine>
void share_columns(const PackedTransform& packed, CpuLevel level, const UpgradeCall& call, int64_t first_row,
                   int64_t rows, int threads, const StopFn& stop) {
  BlockUpgrade<Engine> block(packed, level, call, first_row, rows);
  std::vector<int64_t> task_panels, tasks;
  for (int64_t step = 0; step < block.step_count(); ++step) {
    const PackedLayer* const layer = block.layer_of(step);
    const int64_t panels = layer ? layer->panel_count() : 1;
    const int64_t least = layer ? kTaskPanels * panel_time(*layer, rows) : kTaskTime;
    task_panels.push_back(kTaskPanels * ceil_div(kTaskTime, least));
    tasks.push_back(ceil_div(panels, task_panels.back()));
  }
  run_stages(
      tasks, threads,
      [&](int64_t step, int64_t task) {
        const int64_t width = task_panels[static_cast<std::size_t>(step)];
        const PackedLayer* const layer = block.layer_of(step);
        const int64_t first = task * width;
        block.run(step, {first, layer ? std::min(width, layer->panel_count() - first) : 0});
      },
      stop);
}

template <typename Engine>
void upgrade_rows(const PackedTransform& packed, CpuLevel level, const UpgradeCall& call, const StopFn& stop) {
  const int threads = useful_threads(packed, call.old.rows, call.threads);
  constexpr int64_t kBytes = sizeof(typename Engine::Element);
  const int64_t rows = call.old.rows;
  if (threads > 1 && rows > 0 && rows <= kColumnBlocks * threads * fitting_rows(packed, kBytes)) {
    share_rows(rows, kMaxBlockRows, 1, stop, [&](int64_t first, int64_t count) {
      share_columns<Engine>(packed, level, call, first, count, threads, stop);
    });
  } else {
    share_rows(rows, fitting_rows(packed, kBytes), threads, stop, [&](int64_t first, int64_t count) {
      BlockUpgrade<Engine>(packed, level, call, first, count).run_all();
    });
  }
}

}  // namespace

void upgrade(const PackedTransform& packed, CpuLevel level, const UpgradeCall& call, const StopFn& stop) {
  check(packed, level, call);
  switch (packed.precision) {
    case Precision::fp32:
      return upgrade_rows<Fp32Engine>(packed, level, call, stop);
    case Precision::bf16:
      return upgrade_rows<Bf16Engine>(packed, level, call, stop);
    case Precision::int8:
      return upgrade_rows<Int8Engine>(packed, level, call, stop);
  }
}

}  // namespace fct
