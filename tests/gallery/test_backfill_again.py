"""A backfill that finds an earlier one: resumed at its level, refused where it differs, damage reported and repaired."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_support import (
    NEW_DIM,
    Stopped,
    leftovers,
    load_gallery,
    small_bundle,
    stop_after,
    store,
    tree_digest,
)

from fct_fast import errors, kernels, upgrader
from fct_fast.gallery import Job, backfill
from fct_fast.kernels import native
from fct_fast.upgrader import Upgrader

SINKS = ["new.npy", "new"]


# Another job in the same directory


def test_resuming_with_other_inputs_or_options_is_refused_with_what_differs(tmp_path: Path) -> None:
    stored = store(tmp_path)
    with pytest.raises(Stopped):
        backfill(stored.source, tmp_path / "new", stored.up, shard_rows=100, progress=stop_after(4))
    assert 0 < Job.open(tmp_path / "new").status().shards < 10
    before = tree_digest(tmp_path)
    other_h = Upgrader(small_bundle(stored.rows, seed=5))
    changes: list[tuple[Any, dict[str, Any], str]] = [
        (stored.up, {"shard_rows": 50}, "shard_rows was 100 and is 50"),
        (stored.up, {"out_dtype": "float16"}, "out_dtype was float32 and is float16"),
        (stored.up, {"nonfinite": "flag"}, "nonfinite was raise and is flag"),
        (stored.up, {"limit": 10}, "limit was None and is 10"),
        (other_h, {}, "bundle was [0-9a-f]{12} and is [0-9a-f]{12}"),
    ]
    for up, options, sentence in changes:
        with pytest.raises(errors.LedgerMismatch, match=f"belongs to another job: {sentence}; repeat"):
            backfill(stored.source, tmp_path / "new", up, **({"shard_rows": 100} | options))
    with pytest.raises(errors.LedgerMismatch, match="sink was"):
        backfill(stored.source, tmp_path / "x", stored.up, shard_rows=100, job_dir=tmp_path / "new.job")
    assert tree_digest(tmp_path) == before
    stored.rows.old[5] += 1
    np.save(tmp_path / "old.npy", stored.rows.old)
    with pytest.raises(errors.LedgerMismatch, match=r"source old s"):
        backfill(stored.source, tmp_path / "new", stored.up, shard_rows=100)


@pytest.mark.parametrize("sink", SINKS)
def test_a_source_that_changes_during_the_job_is_noticed_before_publishing(tmp_path: Path, sink: str) -> None:
    stored = store(tmp_path)

    def change(progress: Any) -> None:
        if progress.shards == 2:
            stored.rows.side[999] += 1
            np.save(tmp_path / "side.npy", stored.rows.side)

    with pytest.raises(errors.LedgerMismatch, match="changed since the job was planned"):
        backfill(stored.source, tmp_path / sink, stored.up, shard_rows=300, progress=change)
    assert not (tmp_path / sink).exists()


def test_resume_runs_at_the_recorded_level(tmp_path: Path) -> None:
    from fct_fast.kernels import capabilities

    stored = store(tmp_path)
    levels = capabilities()["cpu_levels"]
    for first, second in itertools.pairwise([*levels, levels[0]]):
        sink = tmp_path / f"{first}-{second}.npy"
        with pytest.raises(Stopped):
            backfill(stored.source, sink, stored.up.at_level(first), shard_rows=100, progress=stop_after(4))
        report = backfill(stored.source, sink, stored.up.at_level(second), shard_rows=100)
        assert report.level == first
        assert np.array_equal(np.load(sink), stored.up.at_level(first)(stored.rows.old, stored.rows.side))


class WithAmx:
    """The compiled module of a machine that has level amx; it computes at the scalar level."""

    def __getattr__(self, name: str) -> Any:
        return getattr(native(), name)

    def resolve_level(self, name: str) -> str:
        return name if name == "amx" else str(native().resolve_level(name))

    def upgrade(self, packed: Any, level: str, *rest: Any) -> None:
        native().upgrade(packed, "scalar" if level == "amx" else level, *rest)


@pytest.mark.skipif("amx" in native().usable_levels(), reason="level amx is turned on")
def test_a_job_begun_at_level_amx_never_goes_on_at_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bits in bf16 are its own; where it is off or missing, the job waits, and nothing is written."""
    stored, sink = store(tmp_path), tmp_path / "new.npy"
    with monkeypatch.context() as other:
        other.setattr(kernels, "native", WithAmx)
        other.setattr(upgrader, "native", WithAmx)
        with pytest.raises(Stopped):
            backfill(stored.source, sink, stored.up.at_level("amx"), shard_rows=100, progress=stop_after(4))
    with pytest.raises(errors.DeviceError, match="asks for 'amx'"):
        backfill(stored.source, sink, stored.up, shard_rows=100)
    monkeypatch.setattr(kernels, "native", WithAmx)
    monkeypatch.setattr(upgrader, "native", WithAmx)
    assert backfill(stored.source, sink, stored.up, shard_rows=100).level == "amx"


# Damage


@pytest.mark.parametrize("sink", SINKS)
def test_a_flipped_bit_in_a_committed_shard_is_reported_and_repaired(tmp_path: Path, sink: str) -> None:
    stored = store(tmp_path, ids=True)
    backfill(stored.source, tmp_path / "whole" / sink, stored.up, shard_rows=100)
    with pytest.raises(Stopped):
        backfill(stored.source, tmp_path / sink, stored.up, shard_rows=100, progress=stop_after(4))
    partial = next(tmp_path.glob(f"{sink}.partial-*"))
    damaged = partial / "part-000001.npy" if partial.is_dir() else partial
    data = bytearray(damaged.read_bytes())
    data[128 + (0 if partial.is_dir() else 100 * NEW_DIM * 4) + 77] ^= 4
    damaged.write_bytes(data)
    with pytest.raises(
        errors.CorruptError, match=r"does not hold the bytes that were committed; run the job again with"
    ):
        backfill(stored.source, tmp_path / sink, stored.up, shard_rows=100)
    assert not (tmp_path / sink).exists()
    backfill(stored.source, tmp_path / sink, stored.up, shard_rows=100, repair=True)
    assert np.array_equal(load_gallery(tmp_path / sink), stored.expected)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("sink", SINKS)
def test_missing_and_shortened_files_are_reported_at_once(tmp_path: Path, sink: str) -> None:
    stored = store(tmp_path)
    with pytest.raises(Stopped):
        backfill(stored.source, tmp_path / sink, stored.up, shard_rows=100, progress=stop_after(4))
    partial = next(tmp_path.glob(f"{sink}.partial-*"))
    damaged = partial / "part-000000.npy" if partial.is_dir() else partial
    for damage in (lambda: damaged.write_bytes(damaged.read_bytes()[:-900]), damaged.unlink):
        damage()
        with pytest.raises(errors.CorruptError, match="bytes"):
            backfill(stored.source, tmp_path / sink, stored.up, shard_rows=100)
    backfill(stored.source, tmp_path / sink, stored.up, shard_rows=100, repair=True)
    assert np.array_equal(load_gallery(tmp_path / sink), stored.expected)


def test_a_gallery_that_appears_at_the_sink_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    stored = store(tmp_path)

    def appear(progress: Any) -> None:
        (tmp_path / "new.npy").write_bytes(b"mine")

    with pytest.raises(errors.StoreError, match="appeared while the job ran"):
        backfill(stored.source, tmp_path / "new.npy", stored.up, shard_rows=500, progress=appear)
    assert (tmp_path / "new.npy").read_bytes() == b"mine"
    (tmp_path / "new.npy").unlink()
    backfill(stored.source, tmp_path / "new.npy", stored.up, shard_rows=500)
    assert np.array_equal(np.load(tmp_path / "new.npy"), stored.expected)


def test_an_unfinished_job_never_writes_into_what_took_its_place(tmp_path: Path) -> None:
    stored = store(tmp_path)
    with pytest.raises(Stopped):
        backfill(stored.source, tmp_path / "new.npy", stored.up, shard_rows=100, progress=stop_after(4))
    next(tmp_path.glob("new.npy.partial-*")).rename(tmp_path / "elsewhere")
    (tmp_path / "new.npy").write_bytes(b"mine")
    for repair in (False, True):
        with pytest.raises(errors.StoreError, match="already exists and is not of this job"):
            backfill(stored.source, tmp_path / "new.npy", stored.up, shard_rows=100, repair=repair)
    assert (tmp_path / "new.npy").read_bytes() == b"mine"
