"""What a backfill refuses before it writes anything: rows that are not numbers, other spaces and scales, options."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_support import (
    NEW_DIM,
    OLD_DIM,
    Stored,
    store,
    tree_digest,
)

from fct_fast import errors
from fct_fast.gallery import Job, backfill, plan_backfill, write_space
from fct_fast.space import SpaceFingerprint

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
