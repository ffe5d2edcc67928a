"""Reading, computing and writing overlap; order is kept; after an error nothing more is written."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from fct_fast.gallery.job.pipeline import overlapped


class Trace:
    """The three steps, with what each has begun and ended."""

    def __init__(self, fail: str = "", at: int = -1, seconds: float = 0.0) -> None:
        self.fail, self.at, self.seconds = fail, at, seconds
        self.begun: dict[str, list[int]] = {"read": [], "compute": [], "write": []}
        self.ended: dict[str, list[int]] = {"read": [], "compute": [], "write": []}
        self.alive, self.most_alive = 0, 0
        self._lock = threading.Lock()

    def step(self, name: str, item: int) -> int:
        with self._lock:
            self.begun[name].append(item)
            self.alive += name == "read"
            self.most_alive = max(self.most_alive, self.alive)
        time.sleep(self.seconds)
        if (self.fail, self.at) == (name, item):
            raise OSError(f"{name} {item}")
        with self._lock:
            self.ended[name].append(item)
            self.alive -= name == "write"
        return item

    def run(self, count: int) -> Any:
        return overlapped(
            range(count),
            lambda item: self.step("read", item),
            lambda item, _: self.step("compute", item),
            lambda item, _: self.step("write", item) and None,
        )


def test_all_items_in_order() -> None:
    trace = Trace()
    assert list(trace.run(50)) == list(range(50))
    assert all(items == list(range(50)) for items in trace.ended.values())
    assert list(Trace().run(0)) == []


def test_the_steps_overlap_and_memory_is_bounded() -> None:
    trace = Trace(seconds=0.02)
    start = time.perf_counter()
    list(trace.run(20))
    assert time.perf_counter() - start < 0.02 * 60 * 0.7  # one after the other takes 60 steps
    assert trace.most_alive <= 4


@pytest.mark.parametrize("step", ["read", "compute", "write"])
@pytest.mark.parametrize("at", [0, 1, 7, 19])
def test_the_first_error_ends_it(step: str, at: int) -> None:
    trace = Trace(step, at)
    done: list[int] = []
    with pytest.raises(OSError, match=f"{step} {at}"):
        done.extend(trace.run(20))
    assert trace.ended["write"] == list(range(len(trace.ended["write"])))
    assert len(trace.begun["write"]) <= at + 1
    assert done == list(range(len(done)))
    assert threading.active_count() < 20


def test_a_caller_that_stops_ends_it_too() -> None:
    trace = Trace(seconds=0.005)
    items = trace.run(20)
    assert next(items) == 0
    items.close()
    written = list(trace.ended["write"])
    time.sleep(0.05)
    assert trace.ended["write"] == written
    assert len(written) <= 3
