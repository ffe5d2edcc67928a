"""Power cuts, generated: lives of a job on a recording disk, and states of the disk that a cut of the power in them may
leave. Each state is put on a real disk and resumed. A state has a number; `replay.py` shows it again.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from disk_model import Keep, Tree, write_tree
from galleries import Bench
from recording_disk import Killed, Log, RecordingDisk, attached

from fct_fast.errors import StoreError

__all__ = ["STORIES", "Finding", "PowerCuts", "State", "Story"]

Story = Literal["undisturbed", "killed and resumed", "cut twice", "flush failed"]
STORIES: tuple[Story, ...] = ("undisturbed", "killed and resumed", "cut twice", "flush failed")
CUTS = 5  # states that are taken from one story


@dataclass(frozen=True, repr=False)
class State:
    """What a cut after so many events of a log leaves. label: how to get this state again."""

    label: str
    tree: Tree
    log: Log
    cut: int


@dataclass(frozen=True, repr=False)
class Finding:
    """A state that was not survived. number: how many were looked at until then, this one included."""

    number: int
    state: State
    wrong: str

    def __repr__(self) -> str:
        cut = self.state.cut
        return f"state {self.state.label}: {self.wrong}\nafter event {cut}:\n{self.state.log.told(cut)}"


class PowerCuts:
    """States of one backfill, written through one kind of disk."""

    def __init__(
        self,
        bench: Bench,
        seed: int = 0,
        disk: type[RecordingDisk] = RecordingDisk,
        stories: tuple[Story, ...] = STORIES,
    ) -> None:
        self._bench, self._seed, self._disk, self._stories = bench, seed, disk, stories
        write_tree(bench.out, {})
        self._whole = self._run(Log(bench.out))

    def first_finding(self, states: Iterator[State], count: int | None = None) -> Finding | None:
        """Look at `count` states, or at all; the first that is wrong at once, or after it was resumed."""
        for number, state in enumerate(itertools.islice(states, count), 1):
            write_tree(self._bench.out, state.tree)
            wrong = self._bench.wrong_before() or self._bench.wrong_after()
            if wrong:
                return Finding(number, state, wrong)
        return None

    def plain(self) -> Iterator[State]:
        """At each event of an undisturbed run: of the unflushed bytes, and of the unflushed entries, all or nothing."""
        log, rng = self._whole.log, np.random.default_rng(self._seed)
        choices: tuple[Keep, ...] = ("none", "all")
        for cut in range(len(log.events) + 1):
            for data, names in itertools.product(choices, choices):
                label = f"at event {cut}, bytes: {data}, entries: {names}"
                yield State(label, log.image(cut).after_cut(data, names, rng), log, cut)

    def random(self, start: int = 0) -> Iterator[State]:
        """States without end, from number `start` on; the same for the same seed, but for random names of files."""
        for number in itertools.count(start // CUTS):
            story = self._stories[number % len(self._stories)]
            log, first = self._live(story, np.random.default_rng([self._seed, number]))
            for k in range(max(0, start - number * CUTS), CUTS):
                rng = np.random.default_rng([self._seed, number, k])
                cut = int(rng.integers(first, len(log.events) + 1))
                keep: Keep = "none" if rng.random() < 0.2 else "mixed"
                tree = log.image(cut).after_cut(keep, keep, rng)
                label = f"'{self._bench.case.name}' {self._seed} {number * CUTS + k}"
                yield State(label, tree, log, cut)

    def after_kills(self) -> Iterator[State]:
        """Killed just before each flush of a folder, resumed at once, and cut later: early, half-way and at the end,
        with nothing kept of what was not flushed."""
        rng = np.random.default_rng(self._seed)
        for kill_at, call in enumerate(self._whole.calls, 1):
            if call != "fsync folder":
                continue
            log, first = self._killed(kill_at)
            for part in (0.2, 0.5, 1.0):
                cut = first + int(part * (len(log.events) - first))
                label = f"killed at call {kill_at}, cut after event {cut}"
                yield State(label, log.image(cut).after_cut("none", "none", rng), log, cut)

    def _live(self, story: Story, rng: np.random.Generator) -> tuple[Log, int]:
        """One life of the job from an empty folder on, and the first event after which a cut is of interest."""
        whole = self._whole
        if story == "undisturbed":
            return whole.log, 0
        if story == "killed and resumed":
            return self._killed(int(rng.integers(1, len(whole.calls) + 1)))
        write_tree(self._bench.out, {})
        log, first = Log(self._bench.out), 0
        if story == "cut twice":
            tree = whole.log.image(int(rng.integers(len(whole.log.events)))).after_cut("mixed", "mixed", rng)
            write_tree(self._bench.out, tree)
            log = Log(self._bench.out)
        else:
            flushes = [call for call in whole.calls if call.startswith("fsync")]
            of_files = [number for number, call in enumerate(flushes, 1) if call == "fsync"]
            with contextlib.suppress(StoreError):  # mostly of a file, whose bytes are then lost
                self._run(log, fail_fsync=int(rng.choice([*range(1, len(flushes) + 1), *of_files, *of_files])))
            first = next(i for i, event in enumerate(log.events) if event[0] == "fsync_failed")
        self._run(log)
        return log, first

    def _killed(self, kill_at: int) -> tuple[Log, int]:
        """Killed just before a call, and resumed by a process that sees what was not flushed and is not safe yet."""
        write_tree(self._bench.out, {})
        log = Log(self._bench.out)
        with contextlib.suppress(Killed):
            self._run(log, kill_at=kill_at)
        first = len(log.events)
        self._run(log)
        return log, first

    def _run(self, log: Log, *, kill_at: int = 0, fail_fsync: int = 0) -> RecordingDisk:
        with attached(self._disk(log, kill_at=kill_at, fail_fsync=fail_fsync)) as disk:
            self._bench.run(disk)
        return disk
