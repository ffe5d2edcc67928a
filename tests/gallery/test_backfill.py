"""A backfill upgrades every row, carries ids, writes the same bytes however it is cut or stopped, and refuses early."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_support import (
    NEW_DIM,
    OLD_DIM,
    Stopped,
    Stored,
    leftovers,
    load_gallery,
    small_bundle,
    stop_after,
    store,
    tree_digest,
)

from fct_fast import errors, kernels, upgrader
from fct_fast.bundle import write_bundle
from fct_fast.gallery import Job, backfill, plan_backfill, write_space
from fct_fast.kernels import native
from fct_fast.space import SpaceFingerprint
from fct_fast.spec import Branch, Layer, TransformSpec
from fct_fast.upgrader import Upgrader

ROOT = Path(__file__).parents[2]

SINKS = ["new.npy", "new"]


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("shard_rows", [1, 7, 333, 999, 1000, 4096, "auto"])
def test_every_row_is_upgraded_whatever_the_shards(tmp_path: Path, sink: str, shard_rows: Any) -> None:
    stored = store(tmp_path, 40 if shard_rows == 1 else 1000)
    report = backfill(stored.source, tmp_path / sink, stored.up, shard_rows=shard_rows)
    new = load_gallery(tmp_path / sink)
    assert new.dtype == np.float32
    assert np.array_equal(new, stored.expected)
    oracle = stored.up.spec.apply_float64(stored.rows.old, stored.rows.side)
    assert np.abs(new - oracle).max() < 1e-5
    assert (report.rows, report.flagged, report.resumed) == (len(new), 0, 0)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("sink", SINKS)
def test_ids_travel_along_in_any_plain_dtype(tmp_path: Path, sink: str) -> None:
    stored = store(tmp_path, 100)
    for number, dtype in enumerate(["<i8", "<u4", "<U7", "S5", ">i4"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        ids = stored.rows.ids.astype(dtype)
        np.save(folder / "keys.npy", ids)
        backfill({**stored.source, "ids": folder / "keys.npy"}, folder / sink, stored.up, shard_rows=33)
        files = sorted((folder / sink).glob("*.ids.npy")) if sink == "new" else [folder / "new.ids.npy"]
        written = [np.load(file) for file in files]
        assert all(part.dtype == ids.dtype for part in written)
        assert np.array_equal(np.concatenate(written), ids)


def test_a_folder_of_shards_is_read_in_the_order_of_names_and_ids_follow(tmp_path: Path) -> None:
    stored = store(tmp_path, 100)
    (tmp_path / "parts").mkdir()
    for name, rows in {
        "b.npy": slice(40, 47),
        "a.npy": slice(0, 40),
        "c.npy": slice(47, 100),
        "d.npy": slice(0, 0),
    }.items():
        np.save(tmp_path / "parts" / name, stored.rows.old[rows])
        np.save(tmp_path / "parts" / name.replace(".npy", ".ids.npy"), stored.rows.ids[rows])
    source = {"old": tmp_path / "parts", "side": stored.source["side"]}
    backfill(source, tmp_path / "new.npy", stored.up, shard_rows=9)
    assert np.array_equal(np.load(tmp_path / "new.npy"), stored.expected)
    assert np.array_equal(np.load(tmp_path / "new.ids.npy"), stored.rows.ids)
    (tmp_path / "parts" / "b.ids.npy").unlink()
    with pytest.raises(errors.StoreError, match=r"b\.ids\.npy is missing"):
        plan_backfill(source, tmp_path / "other.npy", stored.up)


def test_an_upgraded_gallery_is_itself_a_source(tmp_path: Path) -> None:
    """Ids, fingerprint and layout of what is written are what is read: a second upgrade goes on from the first."""
    stored = store(tmp_path, 300, ids=True)
    backfill(stored.source, tmp_path / "new", stored.up, shard_rows=70)
    rng = np.random.default_rng(0)
    from fct_fast.spec import Branch, Layer, TransformSpec

    rotation = np.linalg.qr(rng.standard_normal((NEW_DIM, NEW_DIM)))[0].astype(np.float32)
    layer = Layer(rotation, np.zeros(NEW_DIM, np.float32), relu=False)
    spec = TransformSpec(NEW_DIM, 0, NEW_DIM, (Branch("old", ()),), (layer,))
    backfill(tmp_path / "new", tmp_path / "newer.npy", spec)
    expected = stored.expected.astype(np.float64) @ rotation.T.astype(np.float64)
    assert np.abs(np.load(tmp_path / "newer.npy") - expected).max() < 1e-6
    assert np.array_equal(np.load(tmp_path / "newer.ids.npy"), stored.rows.ids)


def test_float16_in_and_out(tmp_path: Path) -> None:
    stored = store(tmp_path)
    half = stored.rows.old.astype(np.float16)
    np.save(tmp_path / "half.npy", half)
    source = {"old": tmp_path / "half.npy", "side": stored.source["side"]}
    backfill(source, tmp_path / "new.npy", stored.up, out_dtype="float16")
    new = np.load(tmp_path / "new.npy")
    assert new.dtype == np.float16
    assert np.array_equal(new, stored.up(half, stored.rows.side, out_dtype=np.float16))
    assert plan_backfill(source, tmp_path / "x.npy", stored.up).plan.bytes_in == 1000 * (OLD_DIM * 2 + 5 * 4)


def test_float16_that_overflows_is_refused_not_written(tmp_path: Path) -> None:
    stored = store(tmp_path, normalize=False)
    np.save(tmp_path / "old.npy", stored.rows.old * np.float32(1e7))
    with pytest.raises(errors.NonFiniteError, match="row 0 .* overflows float16"):
        backfill(stored.source, tmp_path / "new.npy", stored.up, out_dtype="float16", scale_check="off")
    assert not (tmp_path / "new.npy").exists()
    flagged = backfill(
        stored.source, tmp_path / "flag.npy", stored.up, out_dtype="float16", scale_check="off", nonfinite="flag"
    )
    assert flagged.flagged > 0
    assert np.isfinite(np.load(tmp_path / "flag.npy")).all()


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    stored = store(tmp_path, ids=True)
    report = backfill(stored.source, tmp_path / "new.npy", stored.up, limit=123, shard_rows=50)
    assert report.rows == 123
    assert np.array_equal(np.load(tmp_path / "new.npy"), stored.expected[:123])
    assert np.array_equal(np.load(tmp_path / "new.ids.npy"), stored.rows.ids[:123])


def test_plan_touches_nothing_and_says_what_will_be(tmp_path: Path) -> None:
    stored = store(tmp_path, ids=True)
    before = tree_digest(tmp_path)
    job = plan_backfill(stored.source, tmp_path / "sub" / "new.npy", stored.up, shard_rows=300)
    plan = job.plan
    assert (plan.rows, plan.shards, plan.old_dim, plan.side_dim, plan.new_dim) == (1000, 4, 16, 5, 12)
    assert plan.bytes_in == 1000 * (16 * 4 + 5 * 4 + 8)
    assert plan.bytes_out == 1000 * (12 * 4 + 8)
    assert plan.seconds > 0
    assert plan.frozen_source
    assert plan.new_space["model_id"] == "new-1"
    assert job.status().phase == "planned"
    assert tree_digest(tmp_path) == before
    json.dumps(plan.to_json())


def test_the_same_call_again_reports_what_is_done(tmp_path: Path) -> None:
    stored = store(tmp_path)
    backfill(stored.source, tmp_path / "new", stored.up, shard_rows=300)
    before = tree_digest(tmp_path / "new")
    again = backfill(stored.source, tmp_path / "new", stored.up, shard_rows=300)
    assert (again.resumed, again.rows_per_second) == (1000, 0)
    assert tree_digest(tmp_path / "new") == before
    json.dumps(again.to_json())


def test_progress_is_told_after_each_commit(tmp_path: Path) -> None:
    stored, seen = store(tmp_path), []
    backfill(stored.source, tmp_path / "new", stored.up, shard_rows=300, progress=seen.append)
    assert [p.rows for p in seen] == [300, 600, 900, 1000]
    assert all(p.total_rows == 1000 and p.total_shards == 4 for p in seen)


def test_an_upgrader_can_be_given_as_its_bundle(tmp_path: Path) -> None:
    stored = store(tmp_path)
    bundle = small_bundle(stored.rows)
    write_bundle(tmp_path / "h.safetensors", spec=bundle.spec, spaces=bundle.spaces)
    backfill(stored.source, tmp_path / "new.npy", tmp_path / "h.safetensors")
    assert np.array_equal(np.load(tmp_path / "new.npy"), stored.expected)


def test_no_torch_in_a_whole_backfill(tmp_path: Path) -> None:
    stored = store(tmp_path)
    bundle = small_bundle(stored.rows)
    write_bundle(tmp_path / "h.safetensors", spec=bundle.spec, spaces=bundle.spaces)
    code = f"""
import sys, os
os.chdir({str(tmp_path)!r})
import fct_fast
job = fct_fast.plan_backfill({{"old": "old.npy", "side": "side.npy"}}, "new.npy", fct_fast.Upgrader("h.safetensors"))
job.run(); job.verify(); job.cutover(); job.rollback()
loaded = [name for name in sys.modules if name.split(".")[0] in ("torch", "scipy", "sklearn", "pandas")]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(__file__).parents[2])


# Rows that are not numbers


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["old", "side"])
def test_nonfinite_rows_raise_with_their_row_or_become_zero_rows(tmp_path: Path, value: float, where: str) -> None:
    stored = store(tmp_path)
    rows = getattr(stored.rows, where)
    rows[[701, 355], 3] = value
    np.save(tmp_path / f"{where}.npy", rows)
    with pytest.raises(errors.NonFiniteError, match=r"row 355 of .*old\.npy and .*side\.npy"):
        backfill(stored.source, tmp_path / "a.npy", stored.up, shard_rows=100)
    assert not (tmp_path / "a.npy").exists()
    report = backfill(stored.source, tmp_path / "b.npy", stored.up, shard_rows=100, nonfinite="flag")
    assert report.flagged == 2
    new = np.load(tmp_path / "b.npy")
    assert np.flatnonzero(~new.any(axis=1)).tolist() == [355, 701]
    good = np.setdiff1d(np.arange(1000), [355, 701])
    assert np.array_equal(new[good], stored.up(stored.rows.old[good], stored.rows.side[good]))
    job = Job.open(tmp_path / "b.npy")
    assert (job.status().flagged, job.status().first_flagged) == (2, (355, 701))
    assert job.flagged_rows().tolist() == [355, 701]
    assert job.verify().passed


def test_all_rows_flagged(tmp_path: Path) -> None:
    stored = store(tmp_path)
    np.save(tmp_path / "old.npy", np.full((1000, OLD_DIM), np.nan, np.float32))
    job = plan_backfill(stored.source, tmp_path / "new.npy", stored.up, nonfinite="flag")
    assert job.run().flagged == 1000
    assert job.verify().passed


# Another space or scale


def test_scale_guard(tmp_path: Path) -> None:
    stored = store(tmp_path)
    unit = stored.rows.old / np.linalg.norm(stored.rows.old, axis=1, keepdims=True)
    np.save(tmp_path / "old.npy", unit)
    before = tree_digest(tmp_path)
    with pytest.raises(errors.SpaceError, match="unit rows"):
        backfill(stored.source, tmp_path / "new.npy", stored.up)
    assert tree_digest(tmp_path) == before
    with pytest.warns(UserWarning, match="unit rows"):
        report = backfill(stored.source, tmp_path / "new.npy", stored.up, scale_check="warn")
    assert len(report.warnings) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backfill(stored.source, tmp_path / "other.npy", stored.up, scale_check="off").warnings == []


def test_a_gallery_of_another_model_is_refused(tmp_path: Path) -> None:
    stored = store(tmp_path)
    write_space(stored.source["old"], SpaceFingerprint.measure(stored.rows.old, model_id="another"))
    for scale_check in ("raise", "off"):
        with pytest.raises(errors.SpaceError, match="different models, 'old-1' and 'another'"):
            backfill(stored.source, tmp_path / "new.npy", stored.up, scale_check=scale_check)
    write_space(stored.source["old"], SpaceFingerprint.measure(stored.rows.old, model_id="old-1"))
    backfill(stored.source, tmp_path / "new.npy", stored.up)
    stamp = SpaceFingerprint.from_json(json.loads((tmp_path / "new.space.json").read_bytes()))
    assert (stamp.model_id, stamp.dim, stamp.normalized) == ("new-1", NEW_DIM, True)


def test_a_fingerprint_that_is_none_or_of_another_width(tmp_path: Path) -> None:
    stored = store(tmp_path)
    (tmp_path / "old.space.json").write_bytes(b"{}")
    with pytest.raises(errors.CorruptError, match=r"old\.space\.json is no space fingerprint"):
        backfill(stored.source, tmp_path / "new.npy", stored.up)
    write_space(stored.source["old"], SpaceFingerprint.measure(stored.rows.side))
    with pytest.raises(errors.SpaceError, match="describes rows of 5 values"):
        backfill(stored.source, tmp_path / "new.npy", stored.up)


# Refused before anything is written


def _cases(stored: Stored, folder: Path) -> list[tuple[dict[str, Any], type[Exception], str]]:
    np.save(folder / "wide.npy", np.zeros((1000, 17), np.float32))
    np.save(folder / "short.npy", stored.rows.side[:999])
    np.save(folder / "none.npy", np.zeros((0, OLD_DIM), np.float32))
    np.save(folder / "keys.npy", np.arange(7))
    (folder / "empty").mkdir()
    (folder / "taken.npy").write_bytes(b"mine")
    old, side = stored.source["old"], stored.source["side"]
    return [
        ({"source": old}, errors.ShapeError, "needs side-information of 5 values"),
        (
            {"source": {"old": folder / "wide.npy", "side": side}},
            errors.ShapeError,
            "rows of 17 values.*old rows of 16",
        ),
        ({"source": {"old": side, "side": old}}, errors.ShapeError, "rows of 5 values"),
        ({"source": {"old": old, "side": folder / "short.npy"}}, errors.ShapeError, "has 999 rows.*has 1000"),
        ({"source": {"old": old, "side": side, "ids": folder / "keys.npy"}}, errors.ShapeError, "has 7 rows"),
        ({"source": {"old": old, "sides": side}}, errors.ConfigError, "may have 'side' and 'ids'"),
        ({"source": {"side": side}}, errors.ConfigError, "a source has 'old'"),
        ({"source": folder / "none.npy"}, errors.StoreError, "has no rows"),
        ({"source": folder / "missing.npy"}, errors.StoreError, "No such file"),
        ({"source": folder / "empty"}, errors.StoreError, "holds no .npy, .parquet"),
        ({"source": folder / "x.hdf5"}, errors.ConfigError, "no store of this version"),
        ({"sink": "new.hdf5"}, errors.ConfigError, "no store of this version"),
        ({"sink": "old.npy"}, errors.ConfigError, "lies in the source, or holds it"),
        ({"sink": "old.npy/new.npy"}, errors.StoreError, "a part of it is a file"),
        ({"sink": "taken.npy"}, errors.StoreError, "already exists and is not of this job"),
        ({"job_dir": folder}, errors.ConfigError, "lies in the source, or holds it"),
        ({"job_dir": folder / "empty" / ".."}, errors.ConfigError, "lies in the source"),
        ({"shard_rows": 0}, errors.ConfigError, "shard_rows is auto or a whole number"),
        ({"shard_rows": True}, errors.ConfigError, "shard_rows"),
        ({"shard_rows": "many"}, errors.ConfigError, "shard_rows"),
        ({"limit": -1}, errors.ConfigError, "limit is None or a whole number"),
        ({"out_dtype": "float64"}, errors.ConfigError, "out_dtype is one of float32, float16"),
        ({"nonfinite": "drop"}, errors.ConfigError, "nonfinite is one of"),
        ({"scale_check": "no"}, errors.ConfigError, "scale_check is one of"),
    ]


def test_what_cannot_work_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    stored = store(tmp_path)
    cases = _cases(stored, tmp_path)
    before = tree_digest(tmp_path)
    for change, error, sentence in cases:
        options: dict[str, Any] = {"source": stored.source, "sink": "new.npy"} | change
        options["sink"] = tmp_path / options["sink"]
        for refused in (plan_backfill, backfill):
            if refused is plan_backfill and options["sink"].parent.name == "old.npy":
                continue  # only writing finds out
            with pytest.raises(error, match=sentence):
                refused(
                    options["source"],
                    options["sink"],
                    stored.up,
                    **{k: options[k] for k in options if k not in ("source", "sink")},
                )
        assert tree_digest(tmp_path) == before, change
    assert not (tmp_path / "new.npy.job").exists()


def test_a_sink_inside_the_source_folder_is_refused(tmp_path: Path) -> None:
    stored = store(tmp_path)
    (tmp_path / "parts").mkdir()
    np.save(tmp_path / "parts" / "a.npy", stored.rows.old)
    source = {"old": tmp_path / "parts", "side": stored.source["side"]}
    for sink in (tmp_path / "parts" / "new.npy", tmp_path / "parts", tmp_path / "parts" / ".." / "parts" / "x"):
        with pytest.raises(errors.ConfigError, match="lies in the source"):
            backfill(source, sink, stored.up)


def test_a_folder_with_other_things_is_no_job_directory(tmp_path: Path) -> None:
    stored = store(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "letter.txt").write_text("dear")
    with pytest.raises(errors.StoreError, match="is no job directory: it holds 'letter"):
        backfill(stored.source, tmp_path / "new.npy", stored.up, job_dir=tmp_path / "docs")
    with pytest.raises(errors.StoreError, match="holds no job"):
        Job.open(tmp_path / "docs")


def test_a_disk_that_is_too_small_is_refused_before_hours_of_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fct_fast.gallery.stores.npy_sink import NpySink

    stored = store(tmp_path)
    monkeypatch.setattr(NpySink, "free_bytes", property(lambda self: 20_000))
    with pytest.raises(errors.StoreError, match=r"will need [\d,]+ bytes and 20,000 are free"):
        backfill(stored.source, tmp_path / "new.npy", stored.up)
    assert not (tmp_path / "new.npy.job").exists()


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


def test_several_files_by_a_pattern_are_one_gallery(tmp_path: Path) -> None:
    stored = store(tmp_path, 900)
    for name in ("old", "side"):
        for number, part in enumerate(np.array_split(getattr(stored.rows, name), 4)):
            np.save(tmp_path / f"{name}-{number}.npy", part)
    source = {"old": tmp_path / "old-*.npy", "side": tmp_path / "side-?.npy"}
    backfill(source, tmp_path / "new.npy", stored.up, shard_rows=100)
    assert np.array_equal(np.load(tmp_path / "new.npy"), stored.expected)


def test_throttle_keeps_to_its_pace_and_is_no_part_of_the_job(tmp_path: Path) -> None:
    stored = store(tmp_path, 1000)
    seconds = []
    for sink, throttle in (("fast", None), ("slow", 2000.0)):
        start = time.perf_counter()
        backfill(stored.source, tmp_path / sink, stored.up, shard_rows=100, throttle=throttle)
        seconds.append(time.perf_counter() - start)
    assert seconds[1] >= 900 / 2000  # the last shard need not wait
    with pytest.raises(Stopped):
        backfill(stored.source, tmp_path / "x", stored.up, shard_rows=100, throttle=1e6, progress=stop_after(3))
    assert backfill(stored.source, tmp_path / "x", stored.up, shard_rows=100).resumed >= 300


def test_max_memory_sets_the_size_of_a_shard_or_refuses(tmp_path: Path) -> None:
    stored = store(tmp_path)
    plan = plan_backfill(stored.source, tmp_path / "new", stored.up, max_memory=300 << 20).plan
    assert plan.memory_bytes <= 300 << 20
    free = plan_backfill(stored.source, tmp_path / "new", stored.up).plan
    assert free.shard_rows > plan.shard_rows > 1
    with pytest.raises(errors.ConfigError, match=r"this job needs up to [\d,]+ bytes of memory.*raise it"):
        plan_backfill(stored.source, tmp_path / "new", stored.up, max_memory=100 << 20)


def test_memory_stays_below_what_was_allowed(tmp_path: Path) -> None:
    """A gallery larger than the limit, upgraded by a process of its own that reports its peak."""
    rows, limit = 250_000, 380 << 20
    rng = np.random.default_rng(0)
    old = rng.standard_normal((rows, OLD_DIM * 16), dtype=np.float32)  # 244 MiB in, 244 MiB out
    np.save(tmp_path / "old.npy", old)
    spec = identity_spec(OLD_DIM * 16)
    write_bundle(tmp_path / "h.safetensors", spec=spec, spaces={})
    code = f"""
from pathlib import Path
import fct_fast
report = fct_fast.backfill({str(tmp_path / "old.npy")!r}, {str(tmp_path / "new.npy")!r},
                           {str(tmp_path / "h.safetensors")!r}, max_memory={limit})
assert report.shards > 5, report.shards
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(1024 * int(status["VmHWM"].split()[0]))  # ru_maxrss would count what the parent held before exec
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) <= limit


def identity_spec(dim: int) -> TransformSpec:
    layer = Layer(np.eye(dim, dtype=np.float32), np.zeros(dim, np.float32), relu=False)
    return TransformSpec(dim, 0, dim, (Branch("old", ()),), (layer,))


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("max_memory", 0, "max_memory is None or a whole number from 1 on"),
        ("max_memory", 1.5, "max_memory is None or a whole number"),
        ("throttle", 0, "throttle is None or rows a second"),
        ("throttle", float("nan"), "throttle is None or rows a second"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, option: str, value: Any, sentence: str) -> None:
    stored = store(tmp_path, 30)
    with pytest.raises(errors.ConfigError, match=sentence):
        plan_backfill(stored.source, tmp_path / "new", stored.up, **{option: value})
