"""Interleaved timing: contenders take turns, so that a slow second of the machine hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Timing", "take_turns"]

_REST_SECONDS = 0.02
_SHORT_SECONDS = 0.1


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender: median and best over the rounds."""

    median_s: float
    best_s: float
    rounds: int


def take_turns(contenders: Mapping[str, Callable[[], object]], rounds: int = 7) -> dict[str, Timing]:
    """Each contender once to warm up, then `rounds` rounds of all in turn.

    A turn begins with a rest: the threads of OpenMP spin for a while after a call of torch or faiss, and would take a
    core from whoever comes next. A short call is made once untimed after it, so that the timed one finds warm caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    short = {name: _timed(run) < _SHORT_SECONDS for name, run in contenders.items()}
    for _ in range(rounds):
        for name, run in contenders.items():
            time.sleep(_REST_SECONDS)
            if short[name]:
                run()
            seconds[name].append(_timed(run))
    return {name: Timing(statistics.median(s), min(s), rounds) for name, s in seconds.items()}


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
