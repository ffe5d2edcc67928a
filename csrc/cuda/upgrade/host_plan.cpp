#include "cuda/upgrade/host_plan.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace fct::cuda {
namespace {

// Chunks that keep the multiprocessors busy, and of which a call has many, since the first copy in and the last copy
// out overlap with nothing (a prediction: nothing was measured yet). Slots stay small enough to pin.
constexpr int64_t kMostChunkRows = 16384;
constexpr int64_t kMostSlotBytes = int64_t{32} << 20;
constexpr int64_t kRowMultiple = 128;
constexpr int64_t kAlignment = 256;
constexpr int64_t kParts = 5;  // of a slot, each at an aligned start

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t up_to(int64_t value, int64_t multiple) { return ceil_div(value, multiple) * multiple; }

// Lays out a slot for `rows` rows.
void place(HostPlan& plan, const TransformLayout& layout, const HostShape& shape, int64_t rows) {
  int64_t end = 0;
  const auto take = [&end](int64_t bytes) {
    const int64_t at = end;
    end += up_to(bytes, kAlignment);
    return at;
  };
  plan.old_at = take(rows * layout.old_dim * size_of(plan.old_link));
  plan.side_at = take(rows * layout.side_dim * size_of(plan.side_link));
  plan.out_at = take(rows * layout.new_dim * size_of(shape.out_dtype));
  plan.uncertainty_at = take(layout.uncertainty ? rows * 4 : 0);
  plan.status_at = take(rows);
  plan.slot_bytes = end;
}

}  // namespace

Dtype link_dtype(Dtype rows, Dtype compute) { return size_of(rows) > size_of(compute) ? compute : rows; }

HostPlan plan_host(const TransformLayout& layout, const DeviceFacts& device, const HostShape& shape, int64_t limit) {
  HostPlan plan;
  plan.rows = shape.rows;
  plan.old_link = link_dtype(shape.old_dtype, layout.precision);
  plan.side_link = link_dtype(shape.side_dtype, layout.precision);
  place(plan, layout, shape, kMostChunkRows);
  const int64_t row_bytes = ceil_div(plan.slot_bytes, kMostChunkRows);
  // Half of the memory for the slots, half for scratch.
  const int64_t slot_bytes = std::min(kMostSlotBytes, limit / 2 / kHostSlots);
  const int64_t fitting = (slot_bytes - kParts * kAlignment) / row_bytes;
  if (fitting < 1) {
    throw DeviceError("a row needs " + std::to_string(2 * kHostSlots * (row_bytes + kParts * kAlignment)) +
                      " bytes of device memory, and " + std::to_string(limit) + " bytes are allowed in all");
  }
  // Chunks of nearly one size, in whole tiles where there are several.
  const int64_t most =
      std::min(fitting < kRowMultiple ? fitting : fitting / kRowMultiple * kRowMultiple, kMostChunkRows);
  const int64_t even = ceil_div(shape.rows, std::max<int64_t>(ceil_div(shape.rows, most), 1));
  const int64_t wanted = shape.rows <= most ? shape.rows : std::min(up_to(even, kRowMultiple), most);
  const int64_t like_rows = shape.like_rows > 0 ? shape.like_rows : shape.rows;
  plan.chunk = plan_upgrade(layout, device, wanted, limit / 2, like_rows);
  plan.chunk_rows = plan.chunk.chunk_rows;
  plan.slots = static_cast<int>(std::clamp<int64_t>(ceil_div(shape.rows, plan.chunk_rows), 1, kHostSlots));
  place(plan, layout, shape, plan.chunk_rows);
  return plan;
}

}  // namespace fct::cuda
