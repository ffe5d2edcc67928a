"""Cutover and rollback under power cuts and kills: the pointer names the old gallery or the new one, nothing else and
never for long; and what a finished call has said stays so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disk_model import Tree, read_tree, write_tree
from galleries import Bench, chosen
from recording_disk import Killed, Log, RecordingDisk, attached

from fct_fast.errors import VerificationError
from fct_fast.fs import FileSystem
from fct_fast.gallery import Job
from fct_fast.gallery.job.cutover import read_live

Step = Callable[..., Any]


class Switch:
    """A verified gallery, not live yet, and the two steps; each returns the pointer that is in force after it."""

    def __init__(self, folder: Path) -> None:
        self.bench = bench = Bench(chosen()[0], folder)
        self.live = bench.out / "live.json"
        bench.run()
        write_tree(bench.out, read_tree(bench.out))  # as old as after each cut, since a cutover looks at that
        Job.open(bench.sink).verify()
        self.verified = read_tree(bench.out)
        self.pointers = [None, self.cutover(), self.rollback()]

    def cutover(self, *fs: FileSystem) -> Any:
        return Job.open(self.bench.sink, *fs).cutover(self.live)

    def rollback(self, *fs: FileSystem) -> Any:
        return Job.open(self.bench.sink, *fs).rollback()

    def recorded(self, step: Step, start: Tree, kill_at: int = 0) -> tuple[Log, int]:
        """One step, and where it was killed the same again, from a state on; the record, and the number of calls."""
        write_tree(self.bench.out, start)
        log = Log(self.bench.out)
        with attached(RecordingDisk(log, kill_at=kill_at)) as disk, contextlib.suppress(Killed):
            step(disk)
        if kill_at:
            with attached(RecordingDisk(log)) as again:
                step(again)
        return log, len(disk.calls)


@pytest.fixture
def switch(tmp_path: Path) -> Switch:
    return Switch(tmp_path)


def steps(switch: Switch) -> Iterator[tuple[Step, Tree, Any, Any]]:
    """Each step, what it starts from, and the pointers before and after it."""
    write_tree(switch.bench.out, switch.verified)
    none, new, old = switch.pointers
    yield switch.cutover, switch.verified, none, new
    switch.cutover()
    yield switch.rollback, read_tree(switch.bench.out), new, old


def test_at_every_cut_the_pointer_is_the_old_or_the_new_one_and_the_step_can_be_finished(switch: Switch) -> None:
    rng = np.random.default_rng(0)
    for step, start, before, after in steps(switch):
        log, _ = switch.recorded(step, start)
        seen = set()
        for cut in range(len(log.events) + 1):
            for keep in ("none", "all", "some", "some"):
                write_tree(switch.bench.out, log.image(cut).after_cut(keep, keep, rng))
                found = read_live(switch.live)
                assert found in (before, after)
                seen.add(found == after)
                with contextlib.suppress(*([VerificationError] if found == switch.pointers[2] else [])):
                    assert step() == after  # a rollback that was done is refused
                assert read_live(switch.live) == after
        assert seen == {False, True}


def test_what_a_step_has_said_stays_so_also_when_it_was_killed_and_repeated(switch: Switch) -> None:
    rng = np.random.default_rng(0)
    for step, start, _, after in steps(switch):
        _, calls = switch.recorded(step, start)
        for kill_at in range(calls + 1):
            log, _ = switch.recorded(step, start, kill_at)
            write_tree(switch.bench.out, log.image(len(log.events)).after_cut("none", "none", rng))
            assert read_live(switch.live) == after, f"killed at call {kill_at}"
