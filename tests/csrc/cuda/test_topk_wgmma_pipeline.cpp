// The rings of the fused search on wgmma, model-checked: every order in which the loader, its copies and two consumers
// may take their steps is followed. In none may a stage or facts be read before their copy has ended, or filled while
// somebody reads them, none may end in a deadlock, and products are issued in turns. Then each wait is left out, each
// parity turned, each place mixed up, and releases are made early: all of that must be found.
#include <cstdint>
#include <string>
#include <vector>

#include "check.hpp"
#include "cuda/topk/wgmma_pipeline.hpp"
#include "every_order.hpp"

namespace fct::cuda::topk {
namespace {

enum class Kind {
  wait_facts_empty,
  wait_empty,
  fill,
  wait_turn,
  wait_full,
  multiply,
  wait_products_but_newest,
  wait_products,
  release,
  pass_turn,
  select_begin,
  select_end,
  release_facts
};

struct Step {
  Kind kind;
  int place = 0;
  int parity = 0;
  int facts = -1;  // place of the facts that a fill brings along
  int item = 0;    // the slab or tile, counted over all
};

enum class Mutation { none, drop_wait, turn_parity, wrong_place, early_release };
constexpr int kConsumers = 2;
constexpr int kMostPlaces = 4;

// What the kernel tells the hardware, written down; `at` numbers what a mutation may hit.
class Recorder {
 public:
  Recorder(const WgmmaRings& rings, Mutation mutation, int at) : rings_(rings), mutation_(mutation), at_(at) {}

  void wait_facts_empty(int place, int parity) { wait({Kind::wait_facts_empty, place, parity}); }
  void wait_empty(int place, int parity) { wait({Kind::wait_empty, place, parity}); }
  void fill(int stage, int slab, int facts) {
    const int facts_place = slab == 0 ? moved(facts, rings_.fact_stages) : -1;
    steps.push_back({Kind::fill, moved(stage, rings_.stages), 0, facts_place, slabs_++});
  }
  void wait_turn(int parity) { wait({Kind::wait_turn, 0, parity}); }
  void wait_full(int place, int parity) { wait({Kind::wait_full, place, parity}); }
  void multiply(int stage, int) { steps.push_back({Kind::multiply, moved(stage, rings_.stages), 0, -1, slabs_++}); }
  void wait_products_but_newest() { wait({Kind::wait_products_but_newest}); }
  void wait_products() { wait({Kind::wait_products}); }
  void release(int stage) { give_back({Kind::release, moved(stage, rings_.stages)}, 1); }
  void pass_turn() { steps.push_back({Kind::pass_turn}); }
  void select(int facts) {
    const int place = moved(facts, rings_.fact_stages);
    steps.push_back({Kind::select_begin, place, 0, -1, tiles_++});
    steps.push_back({Kind::select_end, place});
  }
  void release_facts(int facts) {
    give_back({Kind::release_facts, moved(facts, rings_.fact_stages), 0, -1, tiles_}, 2);
  }

  std::vector<Step> steps;
  int seen = 0;

 private:
  bool hit(Mutation wanted) { return mutation_ == wanted && seen++ == at_; }
  int moved(int place, int places) { return hit(Mutation::wrong_place) ? (place + 1) % places : place; }
  void wait(Step step) {
    if (hit(Mutation::drop_wait)) return;
    const bool on_barrier = step.kind != Kind::wait_products && step.kind != Kind::wait_products_but_newest;
    if (on_barrier && hit(Mutation::turn_parity)) step.parity ^= 1;
    steps.push_back(step);
  }
  // After the wait, or the reading, that it must not come before.
  void give_back(const Step& step, int after) {
    const bool early = hit(Mutation::early_release);
    steps.insert(steps.end() - (early ? after : 0), step);
  }

  const WgmmaRings rings_;
  const Mutation mutation_;
  const int at_;
  int slabs_ = 0, tiles_ = 0;
};

// A barrier of as many arrivals as its user says.
struct Phase {
  int8_t phase = 0;
  int8_t arrived = 0;
  void arrive(int of) {
    if (++arrived < of) return;
    arrived = 0;
    phase ^= 1;
  }
};

struct Place {
  int8_t holds = -1;    // the item that lies there; -1 before and while it is filled
  int8_t filling = -1;  // the item that is on its way
  int8_t barrier = -1;  // of facts on their way: the stage whose barrier tells
  int8_t readers = 0;   // of facts
  Phase empty, full;
};

struct State {
  int8_t done[1 + kConsumers]{};
  Place stages[kMostPlaces], facts[kMostPlaces];
  Phase turn[kConsumers];
  int8_t reading[kConsumers][2] = {{-1, -1}, {-1, -1}};  // stages of the two newest products that may still run
  int8_t issued[kConsumers]{}, selected[kConsumers]{};   // tiles
  std::string key() const { return {reinterpret_cast<const char*>(this), sizeof(*this)}; }
};

class Model {
 public:
  Model(const WgmmaRings& rings, const std::vector<Step> (&actors)[1 + kConsumers]) : rings_(rings), actors_(actors) {}

  bool sound() {
    return testing::every_order_is_sound(State{}, [this](const State& state, auto take) {
      bool ended = true;
      for (int place = 0; place < kMostPlaces; ++place) {  // copies end when they like
        for (bool facts : {false, true}) {
          State next = state;
          Place& filled = (facts ? next.facts : next.stages)[place];
          if (filled.filling < 0) continue;
          filled.holds = filled.filling;
          filled.filling = -1;
          end_fill(next, facts ? filled.barrier : place);
          take(next);
        }
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
  // Every fill was read and given back.
  static bool at_rest(const State& state) {
    for (const Place& stage : state.stages) {
      if (stage.full.phase != stage.empty.phase || stage.empty.arrived != 0) return false;
    }
    for (const Place& facts : state.facts) {
      if (facts.empty.arrived != 0) return false;
    }
    return true;
  }

  static void end_fill(State& state, int stage) {
    if (state.stages[stage].filling >= 0) return;
    for (const Place& facts : state.facts) {
      if (facts.filling >= 0 && facts.barrier == stage) return;
    }
    state.stages[stage].full.arrive(1);
  }

  static bool is_read(const State& state, int stage) {
    for (const auto& reading : state.reading) {
      if (reading[0] == stage || reading[1] == stage) return true;
    }
    return false;
  }

  // False where the actor has to wait; `legal` turns false on a hazard.
  bool advance(State& state, int actor, const Step& step, bool& legal) const {
    const int consumer = actor - 1;
    int8_t* const reading = actor > 0 ? state.reading[consumer] : nullptr;
    const auto fill = [&](Place& place, int item, int barrier) {
      legal &= place.filling < 0 && place.readers == 0;
      place.holds = -1;
      place.filling = static_cast<int8_t>(item);
      place.barrier = static_cast<int8_t>(barrier);
    };
    switch (step.kind) {
      case Kind::wait_facts_empty:
        return state.facts[step.place].empty.phase != step.parity;
      case Kind::wait_empty:
        return state.stages[step.place].empty.phase != step.parity;
      case Kind::wait_full:
        return state.stages[step.place].full.phase != step.parity;
      case Kind::wait_turn:
        return state.turn[consumer].phase != step.parity;
      case Kind::fill:
        legal &= !is_read(state, step.place);
        fill(state.stages[step.place], step.item, step.place);
        if (step.facts >= 0) fill(state.facts[step.facts], step.item / rings_.slabs, step.place);
        return true;
      case Kind::multiply:
        legal &= state.stages[step.place].holds == step.item && reading[0] < 0;
        if (rings_.take_turns() && step.item % rings_.slabs == 0) {
          legal &= state.issued[1 - consumer] == step.item / rings_.slabs + consumer;  // the turns
        }
        if (step.item % rings_.slabs == rings_.slabs - 1) ++state.issued[consumer];
        reading[0] = reading[1];
        reading[1] = static_cast<int8_t>(step.place);
        return true;
      case Kind::wait_products_but_newest:
        reading[0] = -1;
        return true;
      case Kind::wait_products:
        reading[0] = reading[1] = -1;
        return true;
      case Kind::release:
        legal &= reading[0] != step.place && reading[1] != step.place;
        state.stages[step.place].empty.arrive(kConsumers);
        return true;
      case Kind::pass_turn:
        state.turn[1 - consumer].arrive(1);
        return true;
      case Kind::select_begin:
        legal &= state.facts[step.place].holds == step.item && reading[1] < 0;
        ++state.facts[step.place].readers;
        return true;
      case Kind::select_end:
        legal &= state.facts[step.place].holds >= 0;
        --state.facts[step.place].readers;
        ++state.selected[consumer];
        return true;
      case Kind::release_facts:
        legal &= state.selected[consumer] == step.item;
        state.facts[step.place].empty.arrive(kConsumers);
        return true;
    }
    return false;
  }

  const WgmmaRings rings_;
  const std::vector<Step> (&actors_)[1 + kConsumers];
};

bool sound(const WgmmaRings& rings, Mutation mutation = Mutation::none, int actor = 0, int at = -1,
           int* parts = nullptr) {
  constexpr int64_t kTiles = 4;
  std::vector<Step> actors[1 + kConsumers];
  for (int a = 0; a <= kConsumers; ++a) {
    Recorder recorder(rings, a == actor ? mutation : Mutation::none, at);
    if (a == 0) {
      load_stripe(rings, kTiles, recorder);
    } else {
      consume_stripe(rings, kTiles, a - 1, recorder);
    }
    if (a == actor && parts != nullptr) *parts = recorder.seen;
    actors[a] = recorder.steps;
  }
  return Model(rings, actors).sound();
}

// Waits that nothing depends on: for places that were never filled, the first consumer's first turn, and in one ring
// where the other holds the loader back further. (Once both consumers have begun tile t, all before it are done with;
// facts of tile t - fact_stages given back mean that all slabs of that tile are. The second consumer's turn means that
// the first has seen all slabs of the tile: it waits for them so that it sees their bytes as well, which a model of one
// memory does not tell.)
bool needs_no_wait(const WgmmaRings& rings, int actor, int at) {
  if (actor > 0 && !rings.take_turns()) return false;
  if (actor == 1) return at == 0;
  if (actor == 2) {  // turn, full, (full, products but newest) of each further slab, products
    const int wait = at % (2 * rings.slabs + 1);
    return wait == 1 || (wait > 0 && wait < 2 * rings.slabs && wait % 2 == 0);
  }
  const bool stages_hold_facts = rings.fact_stages > (rings.stages + rings.slabs - 1) / rings.slabs;
  const int held_slabs = rings.stages - (rings.fact_stages - 1) * rings.slabs;  // slabs of a tile that facts hold back
  int waits = 0;
  for (int tile = 0, slabs = 0; waits <= at; ++tile) {
    if (waits++ == at) return tile < rings.fact_stages || stages_hold_facts;
    for (int slab = 0; slab < rings.slabs; ++slab, ++slabs) {
      if (waits++ == at) return slabs < rings.stages || slab < held_slabs;
    }
  }
  return false;
}

void check(const WgmmaRings& rings) {
  CHECK(sound(rings));
  for (Mutation mutation :
       {Mutation::drop_wait, Mutation::turn_parity, Mutation::wrong_place, Mutation::early_release}) {
    for (int actor = 0; actor <= kConsumers; ++actor) {
      if (actor == 0 && mutation == Mutation::early_release) continue;
      int parts = 0;
      sound(rings, mutation, actor, -1, &parts);
      CHECK(parts >= 8);
      for (int at = 0; at < parts; ++at) {
        if (mutation == Mutation::drop_wait && needs_no_wait(rings, actor, at)) continue;
        if (!sound(rings, mutation, actor, at)) continue;
        std::fprintf(stderr, "%d stages, %d slabs: mutation %d of actor %d at %d was not found\n", rings.stages,
                     rings.slabs, static_cast<int>(mutation), actor, at);
        std::exit(1);
      }
    }
  }
}

}  // namespace
}  // namespace fct::cuda::topk

int main() {
  fct::cuda::topk::check({.stages = 2, .fact_stages = 3, .slabs = 1});
  fct::cuda::topk::check({.stages = 3, .fact_stages = 2, .slabs = 1});
  fct::cuda::topk::check({.stages = 3, .fact_stages = 2, .slabs = 2});
  fct::cuda::topk::check({.stages = 4, .fact_stages = 2, .slabs = 3});
  fct::cuda::topk::check({.stages = 2, .fact_stages = 2, .slabs = 3});
  return 0;
}
