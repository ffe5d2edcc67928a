"""Files that were cut short, or that something was added to, at every length: reported, never served, and repaired."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from damage import FlippingDisk, Shard0, content
from galleries import EACH, Bench, chosen
from gallery_support import Stopped, stop_after
from store_cases import Case

from fct_fast.errors import CorruptError, StoreError
from fct_fast.gallery.job.session import Session

ROWS = 48
MORE = 64


@EACH
def test_a_shard_of_any_other_length_is_reported(case: Case, tmp_path: Path) -> None:
    bench, disk = Bench(case, tmp_path, ROWS, ROWS), FlippingDisk()
    bench.run()
    job = Session.open(bench.job_dir, disk)
    disk.opened.clear()
    shard = Shard0(job)
    for path in set(disk.opened):
        data = path.read_bytes()
        for length in range(len(data) + MORE + 1):
            path.write_bytes((data + bytes(MORE))[:length])
            assert shard.reported() == (length != len(data)), f"{path.name} of {length} bytes"
        path.write_bytes(data)
    job.close()


@EACH
@pytest.mark.parametrize("stop", [2, None], ids=["stopped", "finished"])
def test_a_job_with_such_a_shard_is_refused_and_can_be_repaired(case: Case, stop: int | None, tmp_path: Path) -> None:
    """Before the gallery is at its place, where the end of a file need not be committed yet, and after."""
    bench, refused = Bench(case, tmp_path), 0
    for change in (-(1 << 20), -1, MORE):
        bench.clear()
        with pytest.raises(Stopped) if stop else contextlib.nullcontext():
            bench.run(progress=stop_after(stop) if stop else None)
        files = (path for path in bench.out.rglob("*") if path.is_file() and bench.job_dir not in path.parents)
        path = max(files, key=lambda path: path.stat().st_size)
        data = path.read_bytes()
        path.write_bytes((data + bytes(MORE))[: max(0, len(data) + change)])
        try:
            bench.run()
        except CorruptError as error:
            refused += "repair=True" in str(error)
            bench.run(repair=True)
        assert bench.wrong_before() == ""
        assert bench.wrong_after() == ""
    assert refused == 3 or (stop and refused)


@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.stress)], ids=["sample", "all"])
def test_a_ledger_of_any_other_length_is_reported_or_answers_the_same(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite does not look at what follows its last page, and takes the empty end of a page as read."""
    monkeypatch.setattr("fct_fast.gallery.job.ledger.BLOCK_ROWS", 2)
    bench = Bench(chosen()[0], tmp_path)
    bench.run()
    path = bench.job_dir / "ledger.sqlite"
    whole, data = content(path), path.read_bytes()
    reported = 0
    for length in [*range(0, len(data), step), *range(len(data), len(data) + MORE + 1)]:
        path.write_bytes((data + bytes(MORE))[:length])
        try:
            assert content(path) == whole, f"{length} bytes"
        except StoreError:
            assert length < len(data)
            reported += 1
    assert reported > len(data) // step // 2
