"""Whenever the power goes, and whatever of the unflushed the disk has kept: what was committed is there, resuming gives
the bytes of an undisturbed run, and nothing wrong was ever at the final place."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from disk_model import SECTOR, read_tree
from galleries import EACH, Bench
from power_cut import PowerCuts
from recording_disk import Log, RecordingDisk, attached
from store_cases import Case

from fct_fast.errors import StoreError

STATES = 75
STATES_UNDER_STRESS = 1000


@EACH
@pytest.mark.parametrize(
    "count", [STATES, pytest.param(STATES_UNDER_STRESS, marks=pytest.mark.stress)], ids=["short", "stress"]
)
def test_random_states_are_survived(case: Case, count: int, tmp_path: Path) -> None:
    """Cuts in undisturbed runs, in runs that go on after a kill, after another cut, or after a flush that failed."""
    cuts = PowerCuts(Bench(case, tmp_path), seed=int(np.random.default_rng().integers(1 << 32)))
    finding = cuts.first_finding(cuts.random(), count)
    assert finding is None, f"{finding}\nto see it again: python tests/gallery/proof/replay.py {finding.state.label}"


@EACH
@pytest.mark.parametrize("apart", [False, True], ids=["beside", "apart"])
def test_what_a_killed_process_did_not_flush_is_not_relied_on(case: Case, apart: bool, tmp_path: Path) -> None:
    """The next process sees its renames and folders; they are flushed before anything is built on them."""
    cuts = PowerCuts(Bench(case, tmp_path, apart=apart))
    finding = cuts.first_finding(cuts.after_kills())
    assert finding is None, finding


@pytest.mark.stress
@EACH
def test_every_event_with_all_or_nothing_kept(case: Case, tmp_path: Path) -> None:
    cuts = PowerCuts(Bench(case, tmp_path))
    finding = cuts.first_finding(cuts.plain())
    assert finding is None, finding


@EACH
def test_the_record_is_complete(case: Case, tmp_path: Path) -> None:
    """Nothing reaches the disk but through the file layer or the ledger: replayed, the record gives the real folder."""
    bench = Bench(case, tmp_path)
    with attached(RecordingDisk(Log(bench.out))) as disk:
        bench.run(disk)
    log, rng = disk.log, np.random.default_rng(0)
    real = read_tree(bench.out)
    del real[bench.job_dir.name]["ledger.sqlite-journal"]  # type: ignore[union-attr]  # empty between commits
    assert log.image(len(log.events)).after_cut("all", "all", rng) == real
    assert log.image(len(log.events)).after_cut("none", "none", rng) == real, "something is not flushed at the end"


def test_the_model_tears_drops_and_reorders(tmp_path: Path) -> None:
    old, new = b"o" * 3 * SECTOR, b"n" * 5 * SECTOR
    (tmp_path / "kept").write_bytes(old)
    log = Log(tmp_path)
    disk = RecordingDisk(log)
    fd = disk.open_file(tmp_path / "kept", write=True)
    disk.write_at(fd, tmp_path / "kept", new, 0)
    disk.close_file(fd, tmp_path / "kept")
    fd = disk.open_file(tmp_path / ".temp", write=True)
    disk.write_at(fd, tmp_path / ".temp", new, 0)
    disk.close_file(fd, tmp_path / ".temp")
    disk.replace(tmp_path / ".temp", tmp_path / "renamed")
    states = [log.now.after_cut("some", "some", np.random.default_rng(seed)) for seed in range(300)]
    names = {tuple(sorted(state)) for state in states}
    assert names == {("kept",), (".temp", "kept"), ("kept", "renamed")}
    kept, renamed = (
        [node for state in states if isinstance(node := state.get(name), bytes)] for name in ("kept", "renamed")
    )
    torn = {content[::SECTOR] for content in kept if len(content) == len(old)}
    assert torn == {bytes(pattern) for pattern in itertools.product(b"on", repeat=3)}
    assert {len(content) // SECTOR for content in kept} == {3, 4, 5}
    assert {b"", bytes(SECTOR), new[:SECTOR]} < {content[:SECTOR] for content in renamed}
    fd = disk.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    disk.fsync(fd)
    disk.close(fd)
    state = log.now.after_cut("none", "none", np.random.default_rng(0))
    assert (set(state), state["kept"]) == ({"kept", "renamed"}, old)


def test_the_model_loses_what_a_failed_flush_gave_up(tmp_path: Path) -> None:
    """The next flush says that all is well; only what is written again after the failure reaches the disk."""
    path = tmp_path / "kept"
    path.write_bytes(b"o" * 2 * SECTOR)
    disk = RecordingDisk(Log(tmp_path), fail_fsync=1)
    fd = disk.open_file(path, write=True)
    disk.write_at(fd, path, b"n" * 2 * SECTOR, 0)
    with pytest.raises(StoreError, match="cannot flush"):
        disk.flush(fd, path)
    disk.write_at(fd, path, b"m" * SECTOR, SECTOR)
    disk.flush(fd, path)
    disk.close_file(fd, path)
    assert path.read_bytes()[::SECTOR] == b"nm"
    assert disk.log.now.after_cut("none", "none", np.random.default_rng(0)) == {"kept": b"o" * SECTOR + b"m" * SECTOR}
