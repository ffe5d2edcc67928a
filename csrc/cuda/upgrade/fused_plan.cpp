#include "cuda/upgrade/fused_plan.hpp"

#include <algorithm>
#include <sstream>

namespace fct::cuda {
namespace {

// Fewer warps leave the tensor cores idle while one loads or rounds (a prediction: nothing was measured yet).
constexpr int kFewestWarps = 4;
constexpr int kMostBlocks = 2;            // of a multiprocessor, by the registers of the shallow kernel
constexpr int64_t kReservedBytes = 1024;  // of shared memory, a block
constexpr int64_t kElementBytes = 2;

int64_t up_to(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
int depth_of(int32_t columns) { return static_cast<int>(up_to(columns, kFusedStepElements) / kFusedStepElements); }
int64_t row_part(int32_t columns) { return up_to(columns, kFusedStepElements) * kElementBytes; }

// A row: the input and the hidden layers of the branch at hand, then the concatenation, whose place the trunk takes.
class Builder {
 public:
  explicit Builder(const TransformLayout& layout) {
    int64_t work = 0;
    int32_t concat = 0;
    for (const BranchLayout& branch : layout.branches) {
      for (const LayerLayout& layer : branch.layers) work = std::max(work, row_part(layer.depth));
      concat += branch.columns;
    }
    widest_ = work + row_part(concat) + 16;  // a branch that starts in mid-step ends its last step past the others
    int64_t target = work;
    for (const BranchLayout& branch : layout.branches) {
      load(branch, branch.layers.empty() ? target : 0);
      for (std::size_t i = 0; i < branch.layers.size(); ++i) {
        this->layer(branch.layers[i], 0, i + 1 == branch.layers.size() ? target : 0, false);
      }
      target += branch.columns * kElementBytes;
    }
    for (std::size_t i = 0; i < layout.trunk.size(); ++i) {
      this->layer(layout.trunk[i], i == 0 ? work : 0, 0, i + 1 == layout.trunk.size());
    }
  }

  bool fits() const { return count_ <= kMostFusedSteps && deepest_ <= kDeepDepth; }

  FusedPlan plan() const {
    FusedPlan plan;
    plan.steps = steps_;
    plan.step_count = count_;
    plan.row_bytes = static_cast<int32_t>(up_to(widest_, kFusedStepBytes) + kFusedPadBytes);
    plan.weight_bytes = shared_;
    plan.deep = deepest_ > kShallowDepth;
    return plan;
  }

 private:
  void add(const FusedStep& step) {
    if (count_ < kMostFusedSteps) steps_[static_cast<std::size_t>(count_)] = step;
    ++count_;
  }

  void load(const BranchLayout& branch, int64_t y_at) {
    FusedStep step;
    step.kind = branch.reads_side ? FusedStep::Kind::load_side : FusedStep::Kind::load_old;
    step.y_at = static_cast<int32_t>(y_at);
    add(step);
  }

  void layer(const LayerLayout& layer, int64_t x_at, int64_t y_at, bool last) {
    FusedStep step;
    step.kind = FusedStep::Kind::layer;
    step.x_at = static_cast<int32_t>(x_at);
    step.y_at = static_cast<int32_t>(y_at);
    step.depth = layer.depth;
    step.columns = layer.columns;
    step.relu = layer.relu;
    step.last = last;
    step.weight_at = layer.weight_at;
    step.bias_at = layer.bias_at;
    const int64_t columns = up_to(layer.columns, 16);
    step.weight_shared = static_cast<int32_t>(shared_);
    shared_ += columns * (depth_of(layer.depth) * kFusedStepBytes + kFusedPadBytes);
    step.bias_shared = static_cast<int32_t>(shared_);
    shared_ += columns * 4;
    if (y_at == 0) widest_ = std::max(widest_, last ? columns * 4 : columns * kElementBytes);
    deepest_ = std::max(deepest_, depth_of(layer.depth));
    add(step);
  }

  std::array<FusedStep, kMostFusedSteps> steps_{};
  int count_ = 0;
  int deepest_ = 0;
  int64_t widest_ = 0;
  int64_t shared_ = 0;
};

}  // namespace

std::optional<FusedPlan> plan_fused(const TransformLayout& layout, const DeviceFacts& device) {
  // What is much too large is not laid out at all: places are 32 bits.
  if (size_of(layout.precision) != kElementBytes || layout.bytes > device.shared_bytes) return std::nullopt;
  const Builder builder(layout);
  if (!builder.fits()) return std::nullopt;
  FusedPlan plan = builder.plan();
  const auto bytes_of = [&plan](int warps) { return plan.weight_bytes + warps * kFusedRows * (plan.row_bytes + 1); };
  plan.warps = kMostFusedWarps;
  while (plan.warps >= kFewestWarps && bytes_of(plan.warps) > device.shared_bytes) --plan.warps;
  if (plan.warps < kFewestWarps) return std::nullopt;
  plan.rows_at = static_cast<int32_t>(plan.weight_bytes);
  plan.status_at = plan.rows_at + plan.warps * kFusedRows * plan.row_bytes;
  plan.shared_bytes = bytes_of(plan.warps);
  const int64_t together = (device.shared_bytes + kReservedBytes) / (plan.shared_bytes + kReservedBytes);
  plan.blocks_per_multiprocessor = plan.deep ? 1 : static_cast<int>(std::min<int64_t>(together, kMostBlocks));
  return plan;
}

int64_t FusedPlan::blocks(int64_t rows, const DeviceFacts& device) const {
  const int64_t tiles = (rows + kFusedRows - 1) / kFusedRows;
  return std::min<int64_t>(tiles, int64_t{device.multiprocessors} * blocks_per_multiprocessor);
}

std::string FusedPlan::text() const {
  std::ostringstream out;
  out << "fused: " << kFusedRows << " rows a warp, " << warps << " warps, " << (deep ? "deep" : "shallow") << ", "
      << blocks_per_multiprocessor << " blocks a multiprocessor, " << shared_bytes << " bytes shared, of which weights "
      << weight_bytes << "\n";
  for (int s = 0; s < step_count; ++s) {
    const FusedStep& step = steps[static_cast<std::size_t>(s)];
    if (step.kind == FusedStep::Kind::layer) {
      out << "  layer " << step.depth << " -> " << step.columns << (step.relu ? " relu" : "") << ", byte " << step.x_at
          << " -> " << step.y_at << "\n";
    } else {
      out << "  load " << (step.kind == FusedStep::Kind::load_side ? "side" : "old") << " -> byte " << step.y_at
          << "\n";
    }
  }
  return out.str();
}

}  // namespace fct::cuda
