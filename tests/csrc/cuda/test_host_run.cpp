// Calls on host arrays over lanes that dawdle: each lane does what it was given as late as it may, or in random turns,
// over poisoned memory that ends before unreadable pages. The kernels are stood in for by a plain function of the rows,
// so the oracle needs no kernel: what counts is that each row arrives, cast as it should be, with its status.
#include <cstring>
#include <deque>
#include <functional>
#include <random>

#include "check.hpp"
#include "core/error.hpp"
#include "core/half.hpp"
#include "cuda/upgrade/host_run.hpp"
#include "cuda/upgrade/narrow.hpp"

namespace fct::cuda {
namespace {

using fct::testing::fill_normal;
using fct::testing::Guarded;

constexpr DeviceFacts kDevice{.compute = 80, .multiprocessors = 4, .shared_bytes = 99 * 1024, .memory_bytes = 0};

float read(const unsigned char* at, Dtype dtype) {
  float x;
  uint16_t bits;
  std::memcpy(&x, at, dtype == Dtype::f32 ? 4 : 2);
  std::memcpy(&bits, at, 2);
  return dtype == Dtype::f32 ? x : dtype == Dtype::f16 ? float_from_half(bits) : float_from_bfloat(bits);
}

void write(unsigned char* at, Dtype dtype, float x) {
  const uint16_t bits = dtype == Dtype::f16 ? half_from_float(x) : bfloat_from_float(x);
  if (dtype == Dtype::f32) std::memcpy(at, &x, 4);
  if (dtype != Dtype::f32) std::memcpy(at, &bits, 2);
}

float rounded(float x, Dtype dtype) {
  unsigned char bytes[4];
  write(bytes, dtype, x);
  return read(bytes, dtype);
}

// What stands for h: column c of the output from one value of old and one of side.
float mixed(float old, float side, int64_t column) { return 0.5f * old + side + static_cast<float>(column); }

// Lanes as lists of work that is done when somebody must wait for it, or at any time before.
class LazyQueue : public LaneQueue {
 public:
  LazyQueue(int slots, uint32_t seed, bool eager)
      : generator_(seed), eager_(eager), marks_(static_cast<std::size_t>(slots)) {}
  ~LazyQueue() override {
    while (step(static_cast<int>(generator_() % kLanes)) || step(0) || step(1) || step(2)) {
    }
  }

  void copy(Lane lane, const RowCopy& copy) override {
    CHECK(copy.to_pitch >= copy.row_bytes && copy.from_pitch >= copy.row_bytes);
    give(lane, [copy] {
      for (int64_t r = 0; r < copy.rows; ++r)
        std::memcpy(copy.to + r * copy.to_pitch, copy.from + r * copy.from_pitch,
                    static_cast<std::size_t>(copy.row_bytes));
    });
    copied_bytes += copy.rows * copy.row_bytes;
  }
  void upgrade(const UpgradePlan& plan, const UpgradeRun& run) override {
    CHECK(plan.rows <= plan.chunk_rows);
    give(Lane::compute, [plan, run] {
      std::memset(run.scratch, 0xff, static_cast<std::size_t>(plan.scratch_bytes));
      for (int64_t r = 0; r < plan.rows; ++r) upgrade_row(plan.layout, run, r);
    });
  }
  void record(Lane lane, int slot) override { mark(lane, slot) = of(lane).given; }
  void wait(Lane waiter, Lane lane, int slot) override {
    const int64_t count = mark(lane, slot);
    give(waiter, [] {}, lane, count);
  }
  void wait_on_host(Lane lane, int slot) override {
    while (of(lane).done < mark(lane, slot)) {
      if (stop_after-- == 0) throw Interrupted();
      step(static_cast<int>(generator_() % kLanes));
    }
  }

  int64_t copied_bytes = 0;
  int stop_after = -1;

 private:
  struct Work {
    std::function<void()> go;
    Lane after;
    int64_t count;
  };
  struct List {
    std::deque<Work> work;
    int64_t given = 0, done = 0;
  };

  static void upgrade_row(const TransformLayout& h, const UpgradeRun& run, int64_t r) {
    const auto at = [r](const auto& rows, int64_t c) {
      return rows.data + (r * rows.stride + c) * size_of(rows.dtype);
    };
    bool finite = true;
    for (int64_t c = 0; c < h.old_dim; ++c) finite &= std::isfinite(read(at(run.old, c), run.old.dtype));
    for (int64_t c = 0; c < h.side_dim; ++c) finite &= std::isfinite(read(at(run.side, c), run.side.dtype));
    run.status[r] = finite ? kRowOk : kRowNonfiniteInput;
    for (int64_t c = 0; c < h.new_dim; ++c) {
      const float old = read(at(run.old, c % h.old_dim), run.old.dtype);
      const float side = h.side_dim > 0 ? read(at(run.side, c % h.side_dim), run.side.dtype) : 0.0f;
      write(at(run.out, c), run.out.dtype, finite ? mixed(old, side, c) : 0.0f);
    }
    if (run.uncertainty != nullptr) run.uncertainty[r] = finite ? read(at(run.old, 0), run.old.dtype) : 0.0f;
  }

  List& of(Lane lane) { return lists_[static_cast<int>(lane)]; }
  int64_t& mark(Lane lane, int slot) { return marks_[static_cast<std::size_t>(slot)][static_cast<std::size_t>(lane)]; }
  void give(Lane lane, std::function<void()> go, Lane after = Lane::in, int64_t count = 0) {
    of(lane).work.push_back({std::move(go), after, count});
    ++of(lane).given;
    if (eager_) {
      while (generator_() % 4 != 0) step(static_cast<int>(generator_() % kLanes));
    }
  }
  bool step(int lane) {
    List& list = lists_[lane];
    if (list.work.empty() || of(list.work.front().after).done < list.work.front().count) return false;
    list.work.front().go();
    list.work.pop_front();
    ++list.done;
    return true;
  }

  std::mt19937 generator_;
  const bool eager_;
  List lists_[kLanes];
  std::vector<std::array<int64_t, kLanes>> marks_;
};

// A caller's rows, in memory that ends with the last of them; a negative stride holds them backwards.
struct CallerRows {
  CallerRows(int64_t rows, int64_t columns, Dtype type, int64_t step)
      : dtype(type),
        stride(step),
        memory(rows * std::abs(step) * size_of(type)),
        data(memory.data() +
             (step < 0 ? (rows - 1) * -step * size_of(type) : (std::abs(step) - columns) * size_of(type))) {
    std::memset(memory.data(), 0xff, static_cast<std::size_t>(rows * std::abs(step) * size_of(type)));
  }
  unsigned char* at(int64_t r, int64_t c) const { return data + (r * stride + c) * size_of(dtype); }
  Dtype dtype;
  int64_t stride;
  Guarded<unsigned char> memory;
  unsigned char* data;
};

TransformLayout layout(int64_t old_dim, int64_t side_dim, int64_t new_dim, Dtype precision) {
  static const std::vector<float> zeros(1 << 16);
  TransformSource source{old_dim, side_dim, new_dim, false, true, Precision::fp32, {}, {}};
  source.branches.push_back({.reads_side = false, .layers = {}});
  if (side_dim > 0) source.branches.push_back({.reads_side = true, .layers = {}});
  source.trunk = {{.weight = zeros.data(),
                   .bias = zeros.data(),
                   .in_dim = old_dim + side_dim,
                   .out_dim = new_dim + 1,
                   .relu = false}};
  return layout_of(source, precision);
}

struct Case {
  int64_t rows = 1000;
  int64_t side_dim = 5;
  Dtype precision = Dtype::f16;
  Dtype old_dtype = Dtype::f32;
  Dtype side_dtype = Dtype::f32;
  Dtype out_dtype = Dtype::f32;
  int64_t gap = 0;  // between rows, in elements
  bool backwards = false;
  bool pinned = false;
  bool uncertainty = true;
  int threads = 1;
  uint32_t seed = 1;
  int stop_after = -1;
};

constexpr int64_t kOld = 13, kNew = 21;

// The status that a row must have, by what was planted in it. Row 94 has a bad side beside an old that is too large.
unsigned char planted(int64_t r, const Case& c) {
  const auto too_large = [&](Dtype rows) { return rows == Dtype::f32 && c.precision == Dtype::f16; };
  const bool bad_old = r % 97 == 3, bad_side = c.side_dim > 0 && r % 89 == 5;
  if (bad_old || bad_side) return kRowNonfiniteInput;
  return r % 31 == 7 && too_large(c.old_dtype) ? kRowOverflow : kRowOk;
}

void check_case(const Case& c) {
  const TransformLayout h = layout(kOld, c.side_dim, kNew, c.precision);
  const int64_t old_step = kOld + c.gap, side_step = std::max<int64_t>(c.side_dim, 1) + c.gap, out_step = kNew + c.gap;
  CallerRows old(c.rows, kOld, c.old_dtype, c.backwards ? -old_step : old_step);
  CallerRows side(c.rows, std::max<int64_t>(c.side_dim, 1), c.side_dtype, side_step);
  CallerRows out(c.rows, kNew, c.out_dtype, c.backwards ? -out_step : out_step);
  std::vector<float> values(static_cast<std::size_t>(c.rows * (kOld + side_step)));
  fill_normal(values.data(), static_cast<int64_t>(values.size()), c.seed);
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t i = 0; i < kOld; ++i) write(old.at(r, i), c.old_dtype, values[static_cast<std::size_t>(r * kOld + i)]);
    for (int64_t i = 0; i < c.side_dim; ++i)
      write(side.at(r, i), c.side_dtype, values[static_cast<std::size_t>(c.rows * kOld + r * side_step + i)]);
    if ((r % 31 == 7 || r == 94) && c.old_dtype == Dtype::f32) write(old.at(r, 12), c.old_dtype, -1e6f);
    if (r % 97 == 3) write(old.at(r, 4), c.old_dtype, r % 2 ? NAN : INFINITY);
    if (r % 89 == 5 && c.side_dim > 0) write(side.at(r, 0), c.side_dtype, NAN);
  }
  const HostShape shape{c.rows, c.old_dtype, c.side_dtype, c.out_dtype};
  const HostPlan plan = plan_host(h, kDevice, shape, int64_t{100} << 10);
  CHECK(c.rows < 1000 || (plan.slots == kHostSlots && c.rows > 4 * plan.chunk_rows));
  Guarded<unsigned char> pinned(plan.pinned_bytes()), device(plan.slots * plan.slot_bytes);
  Guarded<unsigned char> scratch(plan.chunk.scratch_bytes);
  std::memset(pinned.data(), 0xff, static_cast<std::size_t>(plan.pinned_bytes()));
  std::memset(device.data(), 0xff, static_cast<std::size_t>(plan.slots * plan.slot_bytes));
  std::vector<float> uncertainty(static_cast<std::size_t>(c.rows), NAN);
  std::vector<unsigned char> status(static_cast<std::size_t>(c.rows), 0xee);
  HostCall call{.old = {old.data, c.old_dtype, old.stride},
                .side = {},
                .out = {out.data, c.out_dtype, out.stride},
                .uncertainty = c.uncertainty ? uncertainty.data() : nullptr,
                .status = status.data(),
                .old_pinned = c.pinned,
                .side_pinned = c.pinned,
                .out_pinned = c.pinned,
                .threads = c.threads,
                .stop = {}};
  if (c.side_dim > 0) call.side = {side.data, c.side_dtype, side.stride};
  {
    LazyQueue queue(plan.slots, c.seed, c.seed % 2 == 1);
    queue.stop_after = c.stop_after;
    HostRun run(plan, call, {pinned.data(), device.data(), scratch.data(), nullptr}, queue);
    run_pipeline(c.rows, plan.chunk_rows, plan.slots, run);
    const int64_t row_bytes = kOld * size_of(plan.old_link) + c.side_dim * size_of(plan.side_link) +
                              kNew * size_of(c.out_dtype) + (c.uncertainty ? 4 : 0) + 1;
    CHECK(queue.copied_bytes == c.rows * row_bytes);
  }
  for (int64_t r = 0; r < c.rows; ++r) {
    const unsigned char want = planted(r, c);
    CHECK(status[static_cast<std::size_t>(r)] == want);
    const auto value = [&](const CallerRows& rows, int64_t i, Dtype link) {
      return rounded(read(rows.at(r, i), rows.dtype), link);
    };
    for (int64_t i = 0; i < kNew; ++i) {
      const float x = value(old, i % kOld, plan.old_link);
      const float y = c.side_dim > 0 ? value(side, i % c.side_dim, plan.side_link) : 0.0f;
      CHECK(read(out.at(r, i), c.out_dtype) == (want == kRowOk ? rounded(mixed(x, y, i), c.out_dtype) : 0.0f));
    }
    if (c.uncertainty)
      CHECK(uncertainty[static_cast<std::size_t>(r)] == (want == kRowOk ? value(old, 0, plan.old_link) : 0.0f));
    if (c.gap > 0 && r + 1 < c.rows) CHECK(std::memcmp(out.at(r, kNew), "\xff\xff", 2) == 0);  // between the rows
  }
}

void check_calls() {
  uint32_t seed = 1;
  for (int round = 0; round < 20; ++round) check_case({.seed = ++seed});
  for (Dtype precision : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    for (Dtype rows : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
      check_case({.precision = precision, .old_dtype = rows, .side_dtype = Dtype::f16, .gap = 3, .seed = ++seed});
      check_case({.precision = precision, .old_dtype = rows, .out_dtype = rows, .pinned = true, .seed = ++seed});
    }
  }
  for (int64_t rows : {1, 2, 127, 128, 129, 501}) check_case({.rows = rows, .seed = ++seed});
  for (bool pinned : {false, true}) {
    check_case({.side_dim = 0, .old_dtype = Dtype::f16, .pinned = pinned, .uncertainty = false, .seed = ++seed});
    check_case({.old_dtype = Dtype::f16, .gap = 5, .pinned = pinned, .threads = 2, .seed = ++seed});
    check_case({.gap = 2, .backwards = true, .pinned = pinned, .seed = ++seed});
  }
}

// A stop leaves as an exception from a wait, whenever it comes; what was queued still finds its memory.
void check_stop() {
  for (int after = 0; after < 6; ++after) CHECK_THROWS(check_case({.seed = 2, .stop_after = after}), Interrupted);
}

// The fast casts against the portable ones, over all sixteenths of the floats and the edges of rounding.
void check_narrow() {
  std::vector<float> values;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 99991)
    values.push_back(__builtin_bit_cast(float, static_cast<uint32_t>(bits)));
  for (uint32_t bits :
       {0x477fefffu, 0x477ff000u, 0x7f7f7fffu, 0x7f7f8000u, 0x7f7fffffu, 0x7f800000u, 0x7f800001u, 0x38800000u,
        0x387fffffu, 0x33000000u, 0x33000001u, 0x3f801000u, 0x3f803000u, 0x3f808000u, 0x3f818000u, 1u}) {
    values.push_back(__builtin_bit_cast(float, bits));
    values.push_back(__builtin_bit_cast(float, bits | 0x80000000u));
  }
  for (Dtype dtype : {Dtype::f16, Dtype::bf16}) {
    const auto cast = dtype == Dtype::f16 ? half_from_float : bfloat_from_float;
    const auto widen = dtype == Dtype::f16 ? float_from_half : float_from_bfloat;
    std::vector<uint16_t> target(values.size());
    narrow_row(values.data(), static_cast<int64_t>(values.size()), dtype, target.data());
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(values[i])) CHECK(std::isnan(widen(target[i])));
      if (!std::isnan(values[i])) CHECK(target[i] == cast(values[i]));
      uint16_t one;
      const bool wide = narrow_row(&values[i], 1, dtype, &one);
      CHECK(wide == (std::isfinite(values[i]) && !std::isfinite(widen(cast(values[i])))));
    }
    for (int64_t count = 0; count < 20; ++count) {
      Guarded<float> source(count);
      Guarded<uint16_t> cut(count);
      std::memcpy(source.data(), values.data() + 500, static_cast<std::size_t>(count) * 4);
      narrow_row(source.data(), count, dtype, cut.data());
      CHECK(std::memcmp(cut.data(), target.data() + 500, static_cast<std::size_t>(count) * 2) == 0);
    }
  }
  const float row[] = {1.0f, 1e6f, NAN};
  uint16_t ignored[3];
  CHECK(narrow_row(row, 2, Dtype::f16, ignored) && !narrow_row(row, 3, Dtype::f16, ignored));
}

}  // namespace
}  // namespace fct::cuda

int main() {
  fct::cuda::check_narrow();
  fct::cuda::check_calls();
  fct::cuda::check_stop();
  return 0;
}
