"""A backfill upgrades every row, carries ids, writes the same bytes however it is cut, and bounds its memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_support import (
    NEW_DIM,
    OLD_DIM,
    Stopped,
    leftovers,
    load_gallery,
    small_bundle,
    stop_after,
    store,
    tree_digest,
)

from fct_fast import errors
from fct_fast.bundle import write_bundle
from fct_fast.gallery import backfill, plan_backfill
from fct_fast.spec import Branch, Layer, TransformSpec

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
