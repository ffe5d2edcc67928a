// Model checking in a few lines: every order in which a model's actors may move is followed, each state once.
#pragma once

#include <deque>
#include <set>
#include <string>

namespace fct::cuda::testing {

// Of a state: a rule is broken; somebody still has steps to take, or something is left over; all is done and at rest.
enum class Here { wrong, going, ended };

// expand(state, take) calls take(next) for each move that is possible, and says what the state is. False where a rule
// is broken in some order, or where nobody can move and the end is not reached. State::key() tells states apart.
template <typename State, typename Expand>
bool every_order_is_sound(const State& start, Expand expand) {
  std::deque<State> todo{start};
  std::set<std::string> seen{start.key()};
  while (!todo.empty()) {
    const State state = todo.front();
    todo.pop_front();
    bool moved = false;
    const Here here = expand(state, [&](const State& next) {
      moved = true;
      if (seen.insert(next.key()).second) todo.push_back(next);
    });
    if (here == Here::wrong || (here == Here::going && !moved)) return false;
  }
  return true;
}

}  // namespace fct::cuda::testing
