// The ring of a layer on wgmma, model-checked: every order in which the producer, its copies, and two consumer warps
// may take their steps is followed. In none may a stage be read before its copy has ended, or filled while somebody
// reads it, and none may end in a deadlock. Then each wait is left out, each parity turned, each stage mixed up, and
// releases are made early: all of that must be found.
#include <cstdint>
#include <string>
#include <vector>

#include "check.hpp"
#include "cuda/upgrade/wgmma_ring.hpp"
#include "every_order.hpp"

namespace fct::cuda {
namespace {

enum class Kind { wait_empty, fill, wait_full, multiply, wait_products, wait_products_but_newest, release };

struct Step {
  Kind kind;
  int stage = 0;
  int parity = 0;
  int item = 0;  // the how-manieth fill, over all tiles
};

enum class Mutation { none, drop_wait, turn_parity, wrong_stage, early_release };

// What the kernel tells the hardware, written down; `at` numbers what a mutation may hit.
template <int kStages>
struct Recorder {
  void wait_empty(int stage, int parity) { wait({Kind::wait_empty, stage, parity}); }
  void wait_full(int stage, int parity) { wait({Kind::wait_full, stage, parity}); }
  void fill(int stage, int) { steps.push_back({Kind::fill, moved(stage), 0, items++}); }
  void multiply(int stage, int) { steps.push_back({Kind::multiply, moved(stage), 0, items++}); }
  void wait_products_but_newest() { wait({Kind::wait_products_but_newest}); }
  void wait_products() { wait({Kind::wait_products}); }
  void release(int stage) {
    const Step step{Kind::release, moved(stage)};
    // Before the wait for the products that read the stage.
    if (hit(Mutation::early_release)) {
      steps.insert(steps.end() - 1, step);
    } else {
      steps.push_back(step);
    }
  }

  bool hit(Mutation wanted) { return mutation == wanted && seen++ == at; }
  int moved(int stage) { return hit(Mutation::wrong_stage) ? (stage + 1) % kStages : stage; }
  void wait(Step step) {
    if (hit(Mutation::drop_wait)) return;
    const bool on_barrier = step.kind == Kind::wait_empty || step.kind == Kind::wait_full;
    if (on_barrier && hit(Mutation::turn_parity)) step.parity ^= 1;
    steps.push_back(step);
  }

  Mutation mutation = Mutation::none;
  int at = -1;
  int seen = 0;
  int items = 0;
  std::vector<Step> steps;
};

constexpr int kConsumers = 2;
constexpr int kMostStages = 4;

struct State {
  int8_t done[1 + kConsumers]{};  // steps of the producer, of the consumers
  int8_t holds[kMostStages];      // the item that lies in a stage; -1 before and while it is filled
  int8_t filling[kMostStages];    // the item that is on its way, or -1
  int8_t full_phase[kMostStages]{}, full_arrived[kMostStages]{};
  int8_t empty_phase[kMostStages]{}, empty_arrived[kMostStages]{};
  int8_t reading[kConsumers][2];  // stages that its two newest products may still read, or -1; the newest last
  std::string key() const { return {reinterpret_cast<const char*>(this), sizeof(*this)}; }
};

template <int kStages>
class Model {
 public:
  explicit Model(const std::vector<Step> (&actors)[1 + kConsumers]) : actors_(actors) {}

  bool sound() {
    State start;
    for (int s = 0; s < kMostStages; ++s) start.holds[s] = start.filling[s] = -1;
    for (auto& reading : start.reading) reading[0] = reading[1] = -1;
    return testing::every_order_is_sound(start, [this](const State& state, auto take) {
      bool ended = true;
      for (int stage = 0; stage < kStages; ++stage) {  // copies end when they like
        if (state.filling[stage] < 0) continue;
        State next = state;
        next.holds[stage] = state.filling[stage];
        next.filling[stage] = -1;
        end_full_phase(next, stage);
        take(next);
      }
      for (int actor = 0; actor <= kConsumers; ++actor) {
        if (state.done[actor] == static_cast<int>(actors_[actor].size())) continue;
        ended = false;
        State next = state;
        bool legal = true;
        if (!advance(next, actor, actors_[actor][static_cast<std::size_t>(state.done[actor])], legal)) continue;
        if (!legal) return testing::Here::wrong;
        ++next.done[actor];
        take(next);
      }
      return ended && at_rest(state) ? testing::Here::ended : testing::Here::going;
    });
  }

 private:
  // Nobody reads; every fill was read and given back.
  static bool at_rest(const State& state) {
    for (int s = 0; s < kStages; ++s) {
      if (state.full_phase[s] != state.empty_phase[s] || state.empty_arrived[s] != 0) return false;
    }
    return true;
  }

  static void end_full_phase(State& state, int stage) {
    if (state.full_arrived[stage] == 0 || state.filling[stage] >= 0) return;
    state.full_arrived[stage] = 0;
    state.full_phase[stage] ^= 1;
  }

  static bool is_read(const State& state, int stage) {
    for (const auto& reading : state.reading) {
      if (reading[0] == stage || reading[1] == stage) return true;
    }
    return false;
  }

  // False where the actor has to wait; `legal` turns false on a hazard.
  static bool advance(State& state, int actor, const Step& step, bool& legal) {
    int8_t* const reading = actor > 0 ? state.reading[actor - 1] : nullptr;
    switch (step.kind) {
      case Kind::wait_empty:
        return state.empty_phase[step.stage] != step.parity;
      case Kind::wait_full:
        return state.full_phase[step.stage] != step.parity;
      case Kind::fill:
        legal &= !is_read(state, step.stage) && state.filling[step.stage] < 0 && state.full_arrived[step.stage] == 0;
        state.holds[step.stage] = -1;
        state.filling[step.stage] = static_cast<int8_t>(step.item);
        state.full_arrived[step.stage] = 1;
        return true;
      case Kind::multiply:
        legal &= state.holds[step.stage] == step.item && reading[0] < 0;
        reading[0] = reading[1];
        reading[1] = static_cast<int8_t>(step.stage);
        return true;
      case Kind::wait_products_but_newest:
        reading[0] = -1;
        return true;
      case Kind::wait_products:
        reading[0] = reading[1] = -1;
        return true;
      case Kind::release:
        legal &= reading[0] != step.stage && reading[1] != step.stage;
        if (++state.empty_arrived[step.stage] < kConsumers) return true;
        state.empty_arrived[step.stage] = 0;
        state.empty_phase[step.stage] ^= 1;
        return true;
    }
    return false;
  }

  const std::vector<Step> (&actors_)[1 + kConsumers];
};

// Tiles one after the other, the second consumer behind the first.
template <int kStages>
bool sound(int first_steps, Mutation mutation = Mutation::none, int actor = 0, int at = -1, int* parts = nullptr) {
  std::vector<Step> actors[1 + kConsumers];
  for (int a = 0; a <= kConsumers; ++a) {
    Recorder<kStages> recorder;
    if (a == actor) recorder.mutation = mutation, recorder.at = at;
    RingPlace<kStages> place;
    if (a == 2) fall_behind<kStages>(first_steps, recorder);
    for (int steps : {first_steps, 5, 2, 4}) {
      if (a == 0) {
        produce(place, steps, recorder);
      } else {
        consume(place, steps, recorder);
      }
    }
    if (a == actor && parts != nullptr) *parts = recorder.seen;
    actors[a] = recorder.steps;
  }
  return Model<kStages>(actors).sound();
}

template <int kStages>
void check() {
  constexpr int kFirst = 3;
  for (int first_steps = 1; first_steps <= 5; ++first_steps) CHECK(sound<kStages>(first_steps));
  for (Mutation mutation :
       {Mutation::drop_wait, Mutation::turn_parity, Mutation::wrong_stage, Mutation::early_release}) {
    for (int actor : {0, 1, 2}) {
      if (actor == 0 && mutation == Mutation::early_release) continue;
      int parts = 0, missed = 0;
      sound<kStages>(kFirst, mutation, actor, -1, &parts);
      CHECK(parts >= 12);
      for (int at = 0; at < parts; ++at) missed += sound<kStages>(kFirst, mutation, actor, at);
      // Waits alone may be idle: those of the first fills, whose stages are free, and of the two for one stage that the
      // second consumer begins with, either.
      const int idle = mutation != Mutation::drop_wait ? 0 : actor == 0 ? kStages : actor == 2 ? 2 : 0;
      if (missed == idle) continue;
      std::fprintf(stderr, "%d stages: mutation %d of actor %d was missed %d times\n", kStages,
                   static_cast<int>(mutation), actor, missed);
      std::exit(1);
    }
  }
}

}  // namespace
}  // namespace fct::cuda

int main() {
  fct::cuda::check<2>();
  fct::cuda::check<3>();
  fct::cuda::check<4>();
  return 0;
}
