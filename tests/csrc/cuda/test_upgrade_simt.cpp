// The whole upgrade, by its plan, on the fiber shim, against a float64 chain: default and odd shapes of h, with and
// without side-information, every precision and row count, several chunks, foreign strides, rows that are not finite.
#include <cfloat>

#include "cuda/upgrade/wgmma_tile.hpp"
#include "upgrade_support.hpp"

namespace fct::cuda::testing {
namespace {

void check_shapes() {
  const Transform usual = Transform::standard(32, 16, 24, 96, false);
  const Transform odd = Transform::standard(19, 7, 23, 45, true);
  const Transform alone = Transform::standard(33, 0, 17, 70, false);
  uint32_t seed = 10;
  for (Dtype precision : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    for (int64_t rows : {0, 1, 127, 128, 129}) {
      check_against_oracle(odd, rows, {.precision = precision, .seed = seed += 10}, Dtype::f32);
    }
    check_against_oracle(usual, 129, {.precision = precision, .seed = seed += 10}, Dtype::f16);
    check_against_oracle(alone, 130, {.precision = precision, .seed = seed += 10}, Dtype::bf16);
    check_against_oracle(alone, 65, {.precision = precision, .out_dtype = Dtype::f16, .seed = seed += 10}, Dtype::f32);
  }
  // The widths of the default h, a few rows.
  const Transform full = Transform::standard(128, 128, 128, 512, false);
  check_against_oracle(full, 3, {.precision = Dtype::f32, .seed = 7}, Dtype::f32);
  check_against_oracle(full, 3, {.precision = Dtype::f16, .seed = 7}, Dtype::f32);
}

void check_other_forms() {
  for (Dtype precision : {Dtype::f32, Dtype::f16}) {
    check_against_oracle(other_form(), 50, {.precision = precision, .seed = 3}, Dtype::f32);
  }
}

// Few rows and deep layers: the plan splits the depth among blocks.
void check_splits() {
  const DeviceFacts h200{.compute = 90, .multiprocessors = 132, .shared_bytes = 227 * 1024, .memory_bytes = 0};
  CallerRows old(20, 16, Dtype::f32), none(20, 1, Dtype::f32);
  old.fill(8);
  for (Dtype precision : {Dtype::f16, Dtype::f32}) {
    const Transform h = Transform::standard(16, 0, 8, precision == Dtype::f32 ? 448 : 1536, false);
    const Options few{.precision = precision, .device = h200, .seed = 9};
    check_against_oracle(h, 20, few, Dtype::f32);
    const Result result = run(h, old, none, few);
    CHECK(result.plan.arrivals_bytes > 0);
    Options other = few;
    other.seed = 77;  // blocks end in another order
    CHECK(std::memcmp(result.out.bytes, run(h, old, none, other).out.bytes,
                      static_cast<std::size_t>(result.out.size())) == 0);
    other.like_rows = kMany;
    const Result whole = run(h, old, none, other);
    CHECK(whole.plan.arrivals_bytes == 0);
    // In float32 no bit tells whether the depth was split.
    if (precision == Dtype::f32)
      CHECK(std::memcmp(result.out.bytes, whole.out.bytes, static_cast<std::size_t>(result.out.size())) == 0);
  }
}

// Chunks, seeds and devices change no bit of a tile family's rows.
void check_chunks() {
  const Transform h = Transform::standard(20, 12, 16, 40, false);
  CallerRows old(300, 20, Dtype::f32), side(300, 12, Dtype::f32);
  old.fill(1);
  side.fill(2);
  const Result whole = run(h, old, side, {.seed = 1});
  const Result cut = run(h, old, side, {.scratch_limit = whole.plan.scratch_bytes / 2, .seed = 99});
  CHECK(whole.plan.chunk_rows == 300 && cut.plan.chunk_rows == 128);
  CHECK(std::memcmp(whole.out.bytes, cut.out.bytes, static_cast<std::size_t>(whole.out.size())) == 0);
}

// Every tile of the plan's list, forced by a device of its own.
void check_tiles() {
  const Transform h = Transform::standard(16, 0, 130, 264, false);
  const DeviceFacts one{.compute = 90, .multiprocessors = 1, .shared_bytes = 227 * 1024, .memory_bytes = 0};
  DeviceFacts many = one;
  many.multiprocessors = 1000;
  for (const DeviceFacts& device : {one, many}) {
    check_against_oracle(h, 130, {.precision = Dtype::f16, .device = device, .seed = 4}, Dtype::f32);
    check_against_oracle(h, 40, {.precision = Dtype::f32, .device = device, .seed = 4}, Dtype::f32);
  }
}

// Many rows on Hopper: the plan's layers run on wgmma, a concatenation of odd width and the uncertainty head included.
// A row's bits depend on the row, whatever the batch.
void check_hopper() {
  const DeviceFacts h200{.compute = 90, .multiprocessors = 132, .shared_bytes = 227 * 1024, .memory_bytes = 0};
  const Transform h = Transform::standard(72, 20, 23, 264, true);
  CallerRows old(129, 72, Dtype::f32), side(129, 20, Dtype::f32);
  old.fill(5);
  side.fill(6);
  for (Dtype precision : {Dtype::f16, Dtype::bf16}) {
    const Options many{.precision = precision, .device = h200, .like_rows = kMany, .seed = 4};
    check_against_oracle(h, 129, many, Dtype::f32);
    const Result all = run(h, old, side, many);
    for (const Step& step : all.plan.steps) CHECK(step.kind != Step::Kind::layer || is_wgmma(step.tile));
    CHECK(all.plan.family() == "layers wgmma");
    CallerRows one(1, 72, Dtype::f32), its_side(1, 20, Dtype::f32);
    for (int64_t c = 0; c < 72; ++c) one.set(0, c, static_cast<float>(old.get(77, c)));
    for (int64_t c = 0; c < 20; ++c) its_side.set(0, c, static_cast<float>(side.get(77, c)));
    const Result alone = run(h, one, its_side, many);
    CHECK(std::memcmp(alone.out.at(0, 0), all.out.at(77, 0), 23 * sizeof(float)) == 0);
  }
}

void check_bad_rows(bool fuse) {
  Transform h = Transform::standard(24, 8, 10, 48, true);
  for (Dtype precision : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    CallerRows old(12, 24, Dtype::f32), side(12, 8, Dtype::f32);
    old.fill(5);
    side.fill(6);
    const Result clean = run(h, old, side, {.precision = precision, .fuse = fuse});
    old.set(2, 23, NAN);
    side.set(4, 0, -INFINITY);
    old.set(7, 3, 1e6f);  // finite, but not in float16
    for (int64_t c = 0; c < 24; ++c) old.set(9, c, 3e38f);
    const Result result = run(h, old, side, {.precision = precision, .fuse = fuse});
    for (int64_t r = 0; r < 12; ++r) {
      const bool input = r == 2 || r == 4;
      const bool overflow = r == 9 || (r == 7 && precision == Dtype::f16);
      CHECK(result.status[r] == (input ? kRowNonfiniteInput : overflow ? kRowOverflow : kRowOk));
      if (input || overflow) {
        for (int64_t c = 0; c < 10; ++c) CHECK(result.out.get(r, c) == 0);
        CHECK(result.uncertainty[r] == 0);
      } else if (r != 7) {
        CHECK(std::memcmp(result.out.at(r, 0), clean.out.at(r, 0), 40) == 0);
      }
    }
  }
}

// An input beyond float16 whose first layer would give -Inf, which ReLU turns into a harmless zero: flagged all the
// same.
void check_overflow_that_relu_would_hide(bool fuse) {
  Transform h{2, 0, 2, false, {}, {}};
  h.add_branch(2, {8});  // whole chunks: padding, where Inf times zero is NaN, would give it away
  h.add_trunk(8, {2});
  for (int i = 0; i < 8; ++i) {
    h.branches[0][0].weight[2 * i] = -1e-3f;
    h.branches[0][0].bias[i] = 2000;
  }
  CallerRows old(3, 2, Dtype::f32), none(3, 1, Dtype::f32);
  for (int64_t r = 0; r < 3; ++r) {
    old.set(r, 0, r == 1 ? 1e6f : 1.0f);
    old.set(r, 1, 1.0f);
  }
  for (Dtype precision : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    const Result result = run(h, old, none, {.precision = precision, .fuse = fuse});
    CHECK(result.status[0] == kRowOk && result.status[2] == kRowOk);
    CHECK(result.status[1] == (precision == Dtype::f16 ? kRowOverflow : kRowOk));
  }
}

// An activation beyond the 16 bits that a later ReLU turns into a harmless zero: the row is flagged, and no other.
void check_hidden_overflow(bool fuse) {
  Transform h{8, 0, 8, false, {}, {}};
  h.add_branch(8, {32, 16});
  h.add_trunk(16, {8});
  for (Dtype precision : {Dtype::f16, Dtype::bf16}) {
    const float big = precision == Dtype::f16 ? 3000.0f : 1e38f;
    for (int64_t column : {0, 9, 18, 31}) {  // of the first layer
      for (float& w : h.branches[0][0].weight) w = 0.01f;
      for (int k = 0; k < 8; ++k) h.branches[0][0].weight[column * 8 + k] = big;
      for (int o = 0; o < 16; ++o) h.branches[0][1].weight[o * 32 + column] = -1.0f;  // Inf becomes -Inf becomes 0
      CallerRows old(40, 8, Dtype::f32), none(40, 1, Dtype::f32);
      for (int64_t r = 0; r < 40; ++r) {
        for (int64_t c = 0; c < 8; ++c) old.set(r, c, r % 7 == 3 ? 10.0f : 0.125f);
      }
      const Result result = run(h, old, none, {.precision = precision, .fuse = fuse});
      for (int64_t r = 0; r < 40; ++r) CHECK(result.status[r] == (r % 7 == 3 ? kRowOverflow : kRowOk));
    }
  }
}

// Rows of zeros and of the smallest numbers, without and with a norm to divide by; a value that the output cannot hold.
void check_small_norms(bool fuse) {
  Transform h{2, 0, 2, false, {}, {}};
  h.add_branch(2, {});
  h.add_trunk(2, {2});
  h.trunk[0].weight = {1, 0, 0, 1};
  h.trunk[0].bias = {0, 0};
  CallerRows old(3, 2, Dtype::f32), none(3, 1, Dtype::f32);
  const float rows[3][2] = {{3e30f, 4e30f}, {0, 0}, {3e-30f, 4e-30f}};
  for (int r = 0; r < 3; ++r) {
    for (int c = 0; c < 2; ++c) old.set(r, c, rows[r][c]);
  }
  Options options{.precision = Dtype::bf16, .fuse = fuse};
  Result result = run(h, old, none, options);
  CHECK(result.status[0] == kRowOk && result.status[1] == kRowZeroNorm && result.status[2] == kRowOk);
  for (int r : {0, 2})
    CHECK(std::fabs(result.out.get(r, 0) - 0.6) < 4e-3 && std::fabs(result.out.get(r, 1) - 0.8) < 4e-3);
  h.normalize = false;
  options.out_dtype = Dtype::f16;
  result = run(h, old, none, options);
  CHECK(result.status[0] == kRowOverflow && result.status[1] == kRowOk && result.status[2] == kRowOk);
}

// Norms: rows of any scale come out at unit norm; below the smallest normal float a row is zero and flagged.
void check_norms() {
  Transform h{2, 0, 2, false, {}, {}};
  h.add_branch(2, {});
  h.add_trunk(2, {2});
  h.trunk[0].weight = {1, 0, 0, 1};
  h.trunk[0].bias = {0, 0};
  CallerRows old(5, 2, Dtype::f32), none(5, 1, Dtype::f32);
  const float rows[5][2] = {{3e19f, 4e19f}, {3e-38f, 4e-38f}, {0, 0}, {FLT_MIN / 2, 0}, {-3e38f, 3e38f}};
  for (int r = 0; r < 5; ++r) {
    for (int c = 0; c < 2; ++c) old.set(r, c, rows[r][c]);
  }
  Result result = run(h, old, none, {.precision = Dtype::f32});
  for (int r : {0, 1})
    CHECK(std::fabs(result.out.get(r, 0) - 0.6) < 1e-6 && std::fabs(result.out.get(r, 1) - 0.8) < 1e-6);
  CHECK(result.status[1] == kRowOk && result.status[2] == kRowZeroNorm && result.status[3] == kRowZeroNorm);
  CHECK(result.out.get(3, 0) == 0 && std::fabs(result.out.get(4, 0) + std::sqrt(0.5)) < 1e-6);
  h.normalize = false;
  result = run(h, old, none, {.precision = Dtype::f32, .out_dtype = Dtype::f16});
  CHECK(result.status[0] == kRowOverflow && result.out.get(0, 0) == 0);  // finite, but not in float16
  CHECK(result.status[1] == kRowOk && result.status[2] == kRowOk);
}

void check_all() {
  check_shapes();
  check_other_forms();
  check_chunks();
  check_tiles();
  check_splits();
  check_hopper();
  for (bool fuse : {false, true}) {
    check_bad_rows(fuse);
    check_overflow_that_relu_would_hide(fuse);
    check_hidden_overflow(fuse);
    check_small_norms(fuse);
  }
  check_norms();
}

}  // namespace
}  // namespace fct::cuda::testing

int main() {
  fct::cuda::testing::check_all();
  return 0;
}
