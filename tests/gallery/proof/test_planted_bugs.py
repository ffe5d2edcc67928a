"""The power-cut harness sees: each of three classical mistakes, planted into the file layer, is found within 50 states."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from galleries import Bench, chosen
from power_cut import PowerCuts, Story
from recording_disk import RecordingDisk
from store_cases import Case

STATES = 50


class FilesUnflushed(RecordingDisk):
    """Renames and commits what may be in memory only."""

    def fsync(self, fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            super().fsync(fd)


class FoldersUnflushed(RecordingDisk):
    """Takes a new name for durable when its file is."""

    def fsync(self, fd: int) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            super().fsync(fd)


class FlushTriedAgain(RecordingDisk):
    """Believes the second fsync, which has nothing left to write, after the first one lost the pages."""

    def fsync(self, fd: int) -> None:
        try:
            super().fsync(fd)
        except OSError:
            super().fsync(fd)


@pytest.mark.parametrize("case", chosen()[:2], ids=lambda case: case.name)  # it is the harness that is tested
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("disk", [FilesUnflushed, FoldersUnflushed, FlushTriedAgain])
def test_a_planted_bug_is_found(case: Case, disk: type[RecordingDisk], seed: int, tmp_path: Path) -> None:
    """... and the same states of the file layer as it is are survived."""
    stories: tuple[Story, ...] = ("flush failed",) if disk is FlushTriedAgain else ("undisturbed",)
    bench = Bench(case, tmp_path)
    cuts = PowerCuts(bench, seed, disk, stories)
    finding = cuts.first_finding(cuts.random(), STATES)
    assert finding is not None
    sound = PowerCuts(bench, seed, RecordingDisk, stories)
    assert sound.first_finding(sound.random(), finding.number) is None
