#include "cuda/upgrade/host_run.hpp"

#include <algorithm>
#include <cstring>

#include "cuda/upgrade/narrow.hpp"

namespace fct::cuda {
namespace {

// Work of one task of the thread pool: large enough to be worth one, small enough that Ctrl-C is heard soon.
constexpr int64_t kTaskBytes = 256 << 10;

}  // namespace

HostRun::HostRun(const HostPlan& plan, const HostCall& call, const HostMemory& memory, LaneQueue& queue)
    : plan_(plan),
      call_(call),
      memory_(memory),
      queue_(queue),
      out_bytes_(plan.chunk.layout.new_dim * size_of(call.out.dtype)),
      out_in_place_(call.out_pinned && call.out.stride >= plan.chunk.layout.new_dim),
      wide_(static_cast<std::size_t>(plan.slots) + 1) {
  const TransformLayout& layout = plan.chunk.layout;
  inputs_.push_back({call.old, layout.old_dim, plan.old_link, plan.old_at, call.old_pinned});
  if (layout.side_dim > 0)
    inputs_.push_back({call.side, layout.side_dim, plan.side_link, plan.side_at, call.side_pinned});
  for (Input& input : inputs_)
    input.in_place = input.in_place && input.link == input.rows.dtype && input.rows.stride >= input.columns;
  for (std::vector<unsigned char>& rows : wide_) rows.assign(static_cast<std::size_t>(plan.chunk_rows), 0);
}

void HostRun::stage(const HostChunk& chunk) {
  int64_t row_bytes = 0;
  for (const Input& input : inputs_) row_bytes += input.in_place ? 0 : input.columns * size_of(input.rows.dtype);
  if (row_bytes == 0) return;
  std::vector<unsigned char>& wide = this->wide(chunk);
  each_block(chunk.rows, row_bytes, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) wide[static_cast<std::size_t>(r)] = 0;
    for (const Input& input : inputs_) {
      if (input.in_place) continue;
      unsigned char* const target = pinned(chunk.slot, input.at);
      if (input.link == input.rows.dtype && input.rows.stride == input.columns) {
        const auto bytes = static_cast<std::size_t>((end - begin) * input.link_bytes());
        std::memcpy(target + begin * input.link_bytes(), input.row(chunk.first + begin), bytes);
        continue;
      }
      for (int64_t r = begin; r < end; ++r) {
        if (stage_row(input, chunk.first + r, target + r * input.link_bytes())) wide[static_cast<std::size_t>(r)] = 1;
      }
    }
  });
}

// Returns whether the cast made an infinity of a finite value.
bool HostRun::stage_row(const Input& input, int64_t row, unsigned char* target) const {
  const unsigned char* const source = input.row(row);
  if (input.link == input.rows.dtype) {
    std::memcpy(target, source, static_cast<std::size_t>(input.link_bytes()));
    return false;
  }
  return narrow_row(reinterpret_cast<const float*>(source), input.columns, input.link,
                    reinterpret_cast<uint16_t*>(target));
}

void HostRun::copy_in(const HostChunk& chunk) {
  for (const Input& input : inputs_) {
    queue_.copy(Lane::in, {.to = device(chunk.slot, input.at),
                           .to_pitch = input.link_bytes(),
                           .from = input.in_place ? input.row(chunk.first) : pinned(chunk.slot, input.at),
                           .from_pitch = input.in_place ? input.pitch() : input.link_bytes(),
                           .row_bytes = input.link_bytes(),
                           .rows = chunk.rows});
  }
}

void HostRun::compute(const HostChunk& chunk) {
  const TransformLayout& layout = plan_.chunk.layout;
  UpgradePlan plan = plan_.chunk;
  plan.rows = chunk.rows;
  UpgradeRun run{.old = {device(chunk.slot, plan_.old_at), plan_.old_link, layout.old_dim},
                 .side = {},
                 .out = {device(chunk.slot, plan_.out_at), call_.out.dtype, layout.new_dim},
                 .status = device(chunk.slot, plan_.status_at),
                 .weights = memory_.weights,
                 .scratch = memory_.scratch};
  if (layout.side_dim > 0) run.side = {device(chunk.slot, plan_.side_at), plan_.side_link, layout.side_dim};
  if (call_.uncertainty != nullptr)
    run.uncertainty = reinterpret_cast<float*>(device(chunk.slot, plan_.uncertainty_at));
  queue_.upgrade(plan, run);
}

void HostRun::copy_out(const HostChunk& chunk) {
  const int64_t pitch = call_.out.stride * size_of(call_.out.dtype);
  queue_.copy(Lane::out, {.to = out_in_place_ ? call_.out.data + chunk.first * pitch : pinned(chunk.slot, plan_.out_at),
                          .to_pitch = out_in_place_ ? pitch : out_bytes_,
                          .from = device(chunk.slot, plan_.out_at),
                          .from_pitch = out_bytes_,
                          .row_bytes = out_bytes_,
                          .rows = chunk.rows});
  const auto whole = [&](int64_t at, int64_t bytes) {
    queue_.copy(Lane::out, {.to = pinned(chunk.slot, at),
                            .to_pitch = bytes,
                            .from = device(chunk.slot, at),
                            .from_pitch = bytes,
                            .row_bytes = bytes,
                            .rows = 1});
  };
  if (call_.uncertainty != nullptr) whole(plan_.uncertainty_at, chunk.rows * 4);
  whole(plan_.status_at, chunk.rows);
}

void HostRun::unload(const HostChunk& chunk) {
  const std::vector<unsigned char>& wide = this->wide(chunk);
  const unsigned char* const status = pinned(chunk.slot, plan_.status_at);
  const unsigned char* const out = pinned(chunk.slot, plan_.out_at);
  const unsigned char* const uncertainty = pinned(chunk.slot, plan_.uncertainty_at);
  const int64_t pitch = call_.out.stride * size_of(call_.out.dtype);
  each_block(chunk.rows, out_in_place_ ? 1 : out_bytes_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      // The kernels met the cast's infinity and took the row for bad input; they have made it a zero row.
      const bool overflow =
          wide[static_cast<std::size_t>(r)] && status[r] == kRowNonfiniteInput && is_finite(chunk.first + r);
      call_.status[chunk.first + r] = overflow ? kRowOverflow : status[r];
    }
    if (call_.uncertainty != nullptr) {
      const auto bytes = static_cast<std::size_t>((end - begin) * 4);
      std::memcpy(call_.uncertainty + chunk.first + begin, uncertainty + begin * 4, bytes);
    }
    if (out_in_place_) return;
    if (pitch == out_bytes_) {
      const auto bytes = static_cast<std::size_t>((end - begin) * out_bytes_);
      std::memcpy(call_.out.data + (chunk.first + begin) * pitch, out + begin * out_bytes_, bytes);
      return;
    }
    for (int64_t r = begin; r < end; ++r) {
      std::memcpy(call_.out.data + (chunk.first + r) * pitch, out + r * out_bytes_,
                  static_cast<std::size_t>(out_bytes_));
    }
  });
}

bool HostRun::is_finite(int64_t row) const {
  return std::all_of(inputs_.begin(), inputs_.end(), [row](const Input& input) {
    return is_finite_row(input.row(row), input.columns, input.rows.dtype);
  });
}

template <typename Task>
void HostRun::each_block(int64_t rows, int64_t row_bytes, Task task) const {
  const int64_t block = std::max<int64_t>(kTaskBytes / row_bytes, 1);
  const int64_t blocks = (rows + block - 1) / block;
  parallel_for(
      blocks, call_.threads, [&](int64_t b, int) { task(b * block, std::min(rows, (b + 1) * block)); }, call_.stop);
}

}  // namespace fct::cuda
