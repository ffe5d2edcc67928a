"""Contenders take turns; medians and bests are of the timed calls alone."""

from __future__ import annotations

import time

from fct_fast.bench import take_turns


def test_every_contender_has_its_turn_in_every_round() -> None:
    calls: list[str] = []
    timings = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    # Once to warm up, then in each round twice: short calls are made once untimed.
    assert "".join(calls) == "ab" + "aabb" * 3
    assert {name: t.rounds for name, t in timings.items()} == {"a": 3, "b": 3}
    assert all(0 <= t.best_s <= t.median_s for t in timings.values())


def test_long_calls_are_timed_and_not_repeated() -> None:
    calls = []

    def long() -> None:
        calls.append(time.sleep(0.11))

    timing = take_turns({"long": long}, rounds=2)["long"]
    assert len(calls) == 3
    assert timing.best_s >= 0.11
