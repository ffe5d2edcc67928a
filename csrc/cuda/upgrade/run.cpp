#include "cuda/upgrade/run.hpp"

#include <algorithm>

namespace fct::cuda {
namespace {

// One chunk: rows [first, first + rows) of the call.
class ChunkRun {
 public:
  ChunkRun(const UpgradePlan& plan, const UpgradeRun& run, Launcher& launcher, int64_t first, int64_t rows)
      : plan_(plan), run_(run), launcher_(launcher), first_(first), rows_(rows), status_(run.status + first) {}

  void go() {
    if (!plan_.fused) launcher_.clear(status_, rows_);  // it writes each row's status itself
    if (plan_.arrivals_bytes > 0) launcher_.clear(run_.scratch + plan_.arrivals_at, plan_.arrivals_bytes);
    for (const Step& step : plan_.steps) {
      switch (step.kind) {
        case Step::Kind::load:
          load(step);
          break;
        case Step::Kind::layer:
          layer(step);
          break;
        case Step::Kind::finish:
          finish(step);
          break;
        case Step::Kind::fused:
          fused();
          break;
      }
    }
  }

 private:
  unsigned char* at(const Place& place) const {
    return run_.scratch + plan_.buffer_at[static_cast<std::size_t>(place.buffer)] +
           int64_t{place.first} * place.element_bytes;
  }

  template <typename T>
  const T* weights_at(int64_t at) const {
    return reinterpret_cast<const T*>(run_.weights + at);
  }

  template <typename Pointer>
  Pointer rows_from(const RowsOf<Pointer>& rows) const {
    return rows.data + first_ * rows.stride * size_of(rows.dtype);
  }

  void load(const Step& step) {
    const auto& source = step.reads_side ? run_.side : run_.old;
    launcher_.load({.source = rows_from(source),
                    .source_stride = source.stride,
                    .source_dtype = static_cast<int32_t>(source.dtype),
                    .columns = step.reads_side ? plan_.layout.side_dim : plan_.layout.old_dim,
                    .target = at(step.y),
                    .target_stride = step.y.stride,
                    .rows = rows_,
                    .status = status_},
                   plan_.layout.precision);
  }

  void layer(const Step& step) {
    const bool last = step.y.buffer == Buffer::last;
    const bool narrow = !last && plan_.layout.precision != Dtype::f32;
    const bool cut = plan_.layout.int8 && !step.layer.reads_bytes;
    launcher_.layer({.x = at(step.x),
                     .x_stride = step.x.stride,
                     .weight = run_.weights + step.layer.weight_at,
                     .bias = weights_at<float>(step.layer.bias_at),
                     .y = at(step.y),
                     .y_stride = step.y.stride,
                     .rows = rows_,
                     .depth = step.layer.depth,
                     .columns = step.layer.columns,
                     .relu = step.layer.relu,
                     .status = narrow ? status_ : nullptr,
                     .scale = step.layer.reads_bytes ? weights_at<float>(step.layer.scale_at) : nullptr,
                     .cuts = cut ? weights_at<int32_t>(step.layer.cuts_at) : nullptr,
                     .narrow = step.layer.writes_bytes,
                     .splits = step.splits,
                     .parts = reinterpret_cast<float*>(run_.scratch + plan_.parts_at),
                     .arrivals = reinterpret_cast<uint32_t*>(run_.scratch + plan_.arrivals_at)},
                    plan_.layout.precision, step.tile, last);
  }

  void finish(const Step& step) {
    launcher_.finish(finish_args(reinterpret_cast<const float*>(at(step.x)), step.x.stride));
  }

  FinishArgs finish_args(const float* x, int64_t x_stride) const {
    return {.x = x,
            .x_stride = x_stride,
            .out = rows_from(run_.out),
            .out_stride = run_.out.stride,
            .out_dtype = static_cast<int32_t>(run_.out.dtype),
            .columns = plan_.layout.new_dim,
            .normalize = plan_.layout.normalize,
            .has_uncertainty = plan_.layout.uncertainty,
            .uncertainty = run_.uncertainty == nullptr ? nullptr : run_.uncertainty + first_,
            .rows = rows_,
            .status = status_,
            .ordered = plan_.layout.int8};
  }

  FusedInput input(const RowsOf<const unsigned char*>& rows, int32_t columns) const {
    if (columns == 0) return {};
    return {
        .data = rows_from(rows), .stride = rows.stride, .dtype = static_cast<int32_t>(rows.dtype), .columns = columns};
  }

  void fused() {
    const FusedPlan& plan = *plan_.fused;
    FusedArgs args;
    args.old = input(run_.old, plan_.layout.old_dim);
    args.side = input(run_.side, plan_.layout.side_dim);
    args.weights = run_.weights;
    std::copy(plan.steps.begin(), plan.steps.end(), args.steps);
    args.step_count = plan.step_count;
    args.row_bytes = plan.row_bytes;
    args.rows_at = plan.rows_at;
    args.status_at = plan.status_at;
    args.finish = finish_args(nullptr, 0);
    launcher_.fused(args, plan_.layout.precision, plan, plan.blocks(rows_, plan_.device));
  }

  const UpgradePlan& plan_;
  const UpgradeRun& run_;
  Launcher& launcher_;
  const int64_t first_;
  const int64_t rows_;
  unsigned char* const status_;
};

}  // namespace

void run_upgrade(const UpgradePlan& plan, const UpgradeRun& run, Launcher& launcher) {
  for (int64_t first = 0; first < plan.rows; first += plan.chunk_rows) {
    ChunkRun(plan, run, launcher, first, std::min(plan.chunk_rows, plan.rows - first)).go();
  }
}

}  // namespace fct::cuda
