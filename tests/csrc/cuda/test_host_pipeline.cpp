// The order of a call on host arrays, model-checked: every order in which the host and three lanes may take their steps
// is followed, and in none may a buffer be read before it is filled, or filled while somebody reads it. Then each wait
// in turn is left out, each mark made too early, and each slot mixed up: all of that must be found.
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "check.hpp"
#include "cuda/upgrade/host_pipeline.hpp"
#include "cuda/upgrade/host_plan.hpp"
#include "every_order.hpp"

namespace fct::cuda {
namespace {

enum class Kind { stage, copy_in, compute, copy_out, unload, wait, push };

// What an actor does next. `wait` ends when `lane` has done its first `count` steps; `push` hands `lane` its first
// `count` steps.
struct Step {
  Kind kind = Kind::wait;
  int chunk = 0;
  int slot = 0;
  Lane lane = Lane::in;
  int count = 0;
};

enum class Mutation { none, drop_wait, early_mark, wrong_slot };

// The Steps of run_pipeline that write down what host and lanes are told; `at` numbers what a mutation may hit.
class Recorder {
 public:
  explicit Recorder(int slots, Mutation mutation = Mutation::none, int at = -1)
      : mutation_(mutation), at_(at), marks_(static_cast<std::size_t>(slots)) {}

  void stage(const HostChunk& chunk) { host.push_back(work(Kind::stage, chunk)); }
  void unload(const HostChunk& chunk) { host.push_back(work(Kind::unload, chunk)); }
  void copy_in(const HostChunk& chunk) { give(Lane::in, work(Kind::copy_in, chunk)); }
  void compute(const HostChunk& chunk) { give(Lane::compute, work(Kind::compute, chunk)); }
  void copy_out(const HostChunk& chunk) { give(Lane::out, work(Kind::copy_out, chunk)); }
  void record(Lane lane, int slot) {
    const int early = hit(Mutation::early_mark) ? 1 : 0;
    mark(lane, slot) = static_cast<int>(of(lane).size()) - early;
  }
  void wait(Lane waiter, Lane lane, int slot) {
    if (!hit(Mutation::drop_wait)) give(waiter, {.kind = Kind::wait, .lane = lane, .count = mark(lane, slot)});
  }
  void wait_on_host(Lane lane, int slot) {
    if (!hit(Mutation::drop_wait)) host.push_back({.kind = Kind::wait, .lane = lane, .count = mark(lane, slot)});
  }
  const std::vector<Step>& steps(int actor) const {
    return actor == 0 ? host : lanes[static_cast<std::size_t>(actor - 1)];
  }

  std::vector<Step> host;
  std::array<std::vector<Step>, kLanes> lanes;
  int seen = 0;  // of what the mutation may hit

 private:
  bool hit(Mutation mutation) { return mutation == mutation_ && seen++ == at_; }
  std::vector<Step>& of(Lane lane) { return lanes[static_cast<std::size_t>(lane)]; }
  int& mark(Lane lane, int slot) { return marks_[static_cast<std::size_t>(slot)][static_cast<std::size_t>(lane)]; }
  Step work(Kind kind, const HostChunk& chunk) {
    const int slots = static_cast<int>(marks_.size());
    const int slot = hit(Mutation::wrong_slot) ? (chunk.slot + 1) % slots : chunk.slot;
    return {.kind = kind, .chunk = static_cast<int>(chunk.index), .slot = slot};
  }
  void give(Lane lane, const Step& step) {
    of(lane).push_back(step);
    host.push_back({.kind = Kind::push, .lane = lane, .count = static_cast<int>(of(lane).size())});
  }

  const Mutation mutation_;
  const int at_;
  std::vector<std::array<int, kLanes>> marks_;
};

constexpr int kActors = 1 + kLanes;
constexpr int kMostSlots = 4;
enum Buffer { pinned_in, device_in, device_out, pinned_out, buffers, none };

// Where everybody is, and what every buffer holds: a chunk's number, or -1 while it is written and before.
struct State {
  std::array<int8_t, kActors> done{};  // steps
  std::array<int8_t, kActors> busy{};  // inside the next step
  std::array<int8_t, kLanes> given{};  // steps that the host has pushed
  std::array<int8_t, buffers * kMostSlots> holds;
  std::array<int8_t, buffers * kMostSlots> readers{}, writers{};
  int8_t unloaded = 0;
  std::string key() const { return {reinterpret_cast<const char*>(this), sizeof(*this)}; }
};

struct Finding {
  bool sound = true;      // in every order
  bool overlaps = false;  // host and all lanes were busy at once in some order
};

class Model {
 public:
  Model(const Recorder& recorder, int chunks) : recorder_(recorder), chunks_(chunks) {}

  Finding explore() {
    State start;
    start.holds.fill(-1);
    Finding finding;
    finding.sound = testing::every_order_is_sound(start, [&](const State& state, auto take) {
      bool ended = true;
      finding.overlaps |= state.busy[0] && state.busy[1] && state.busy[2] && state.busy[3];
      for (int actor = 0; actor < kActors; ++actor) {
        const std::vector<Step>& steps = recorder_.steps(actor);
        if (state.done[actor] == static_cast<int>(steps.size())) continue;
        ended = false;
        State next = state;
        bool legal = true;
        if (!advance(next, actor, steps[static_cast<std::size_t>(state.done[actor])], legal)) continue;
        if (!legal) return testing::Here::wrong;
        take(next);
      }
      return ended && state.unloaded == chunks_ ? testing::Here::ended : testing::Here::going;
    });
    return finding;
  }

 private:
  // Takes the next half step of an actor. False where it has to wait; `legal` turns false on a hazard.
  bool advance(State& state, int actor, const Step& step, bool& legal) const {
    const int lane = static_cast<int>(step.lane);
    if (actor > 0 && state.done[actor] >= state.given[actor - 1]) return false;
    if (step.kind == Kind::push) {
      state.given[lane] = static_cast<int8_t>(step.count);
      return step_done(state, actor);
    }
    if (step.kind == Kind::wait) return state.done[1 + lane] >= step.count && step_done(state, actor);
    const auto [from, to] = sides_of(step);
    if (!state.busy[actor]) {
      state.busy[actor] = 1;
      if (from >= 0) {
        legal &= state.holds[from] == step.chunk && state.writers[from] == 0;
        ++state.readers[from];
      }
      if (to >= 0) {
        legal &= state.readers[to] == 0 && state.writers[to] == 0;
        ++state.writers[to];
        state.holds[to] = -1;
      }
      return true;
    }
    state.busy[actor] = 0;
    if (from >= 0) --state.readers[from];
    if (to >= 0) {
      --state.writers[to];
      state.holds[to] = static_cast<int8_t>(step.chunk);
    }
    if (step.kind == Kind::unload) legal &= state.unloaded++ == step.chunk;
    return step_done(state, actor);
  }

  static bool step_done(State& state, int actor) {
    ++state.done[actor];
    return true;
  }

  static std::pair<int, int> sides_of(const Step& step) {
    const auto at = [&step](Buffer buffer) { return buffer * kMostSlots + step.slot; };
    switch (step.kind) {
      case Kind::stage:
        return {-1, at(pinned_in)};
      case Kind::copy_in:
        return {at(pinned_in), at(device_in)};
      case Kind::compute:
        return {at(device_in), at(device_out)};
      case Kind::copy_out:
        return {at(device_out), at(pinned_out)};
      default:
        return {at(pinned_out), -1};
    }
  }

  const Recorder& recorder_;
  const int chunks_;
};

Finding explore(int chunks, int slots, Mutation mutation = Mutation::none, int at = -1, int* seen = nullptr) {
  Recorder recorder(slots, mutation, at);
  run_pipeline(chunks, 1, slots, recorder);
  if (seen != nullptr) *seen = recorder.seen;
  return Model(recorder, chunks).explore();
}

void check_every_order() {
  for (int slots = 1; slots <= kMostSlots; ++slots) {
    for (int chunks = 0; chunks <= 6; ++chunks) {
      const Finding finding = explore(chunks, slots);
      CHECK(finding.sound);
      CHECK(finding.overlaps == (slots >= kHostSlots && chunks > 3));  // what the plan takes three slots for
    }
  }
}

// Nothing in the order is idle: without any one of its parts some order goes wrong, and this test sees it.
void check_that_faults_are_found() {
  for (Mutation mutation : {Mutation::drop_wait, Mutation::early_mark, Mutation::wrong_slot}) {
    for (int slots : {2, 3}) {
      int parts = 0;
      explore(5, slots, mutation, -1, &parts);
      CHECK(parts > 10);
      for (int at = 0; at < parts; ++at) CHECK(!explore(5, slots, mutation, at).sound);
    }
  }
}

// Rows are cut without a gap, the last chunk is what is left.
void check_rows() {
  struct Rows {
    void stage(const HostChunk& chunk) {
      CHECK(chunk.first == next && chunk.rows > 0 && chunk.rows <= 7);
      next += chunk.rows;
    }
    void copy_in(const HostChunk&) {}
    void compute(const HostChunk&) {}
    void copy_out(const HostChunk&) {}
    void unload(const HostChunk& chunk) { unloaded += chunk.rows; }
    void record(Lane, int) {}
    void wait(Lane, Lane, int) {}
    void wait_on_host(Lane, int) {}
    int64_t next = 0, unloaded = 0;
  };
  for (int64_t rows : {0, 1, 6, 7, 8, 20, 21, 22}) {
    Rows steps;
    run_pipeline(rows, 7, 2, steps);
    CHECK(steps.next == rows && steps.unloaded == rows);
  }
}

}  // namespace
}  // namespace fct::cuda

int main() {
  fct::cuda::check_every_order();
  fct::cuda::check_that_faults_are_found();
  fct::cuda::check_rows();
  return 0;
}
