"""The page of a backfill: one file, everything escaped, and what it says is what the job did."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_support import Page

from fct_fast.bundle import Bundle
from fct_fast.gallery import Job, plan_backfill
from fct_fast.report.job import job_page
from fct_fast.spec import Branch, Layer, TransformSpec

HOSTILE = '<script>alert("x")</script>&'


def begun(folder: Path, shard_rows: int = 50) -> Job:
    rng = np.random.default_rng(0)
    np.save(folder / "old.npy", rng.standard_normal((600, 8), dtype=np.float32))
    layer = Layer(rng.standard_normal((6, 8)).astype(np.float32), np.zeros(6, np.float32), relu=False)
    spec = TransformSpec(8, 0, 6, (Branch("old", ()),), (layer,))
    return plan_backfill(folder / "old.npy", folder / "new.npy", Bundle.of(spec, {}), shard_rows=shard_rows)


def page_of(job: Job, **changes: Any) -> Page:
    history = job.history()
    told = None if history is None else asdict(history) | {"rows_per_second": history.rows_per_second}
    rows = [asdict(row) for row in job.samples()]
    return Page(job_page(job.plan.to_json() | changes, job.status().to_json(), told, rows))


def test_each_phase_has_a_page_that_loads_nothing(tmp_path: Path) -> None:
    job = begun(tmp_path)
    planned = page_of(job)
    assert "Nothing is written yet." in planned.text
    assert planned.tags.count("svg") == 0
    job.run()
    complete = page_of(job)
    assert "not yet verified" in complete.text
    job.verify()
    verified = page_of(job)
    assert "is verified and not yet live" in verified.text
    assert "12 shards hold the bytes that were committed" in verified.text
    job.cutover()
    live = page_of(job)
    assert "queries must be embedded by the new model" in live.text
    for page in (planned, complete, verified, live):
        assert page.loads == []
        assert page.scripts == []
    assert [page.tags.count("svg") for page in (complete, verified, live)] == [1, 1, 1]


def test_samples_are_the_stored_rows(tmp_path: Path) -> None:
    job = begun(tmp_path)
    job.run()
    samples = job.samples(5)
    new = np.load(tmp_path / "new.npy")
    assert [row.position for row in samples] == [0, 100, 250, 400, 550]
    for row in samples:
        assert row.new_head == tuple(new[row.position, :4].astype(float).tolist())
        assert row.id == str(row.position)
        assert row.error is not None
        assert row.error < 2e-6
    assert len(job.samples(100)) == 12
    changed = new.copy()
    changed[100] = np.roll(changed[100], 1)
    stored = tmp_path / "new.npy"
    stored.write_bytes(stored.read_bytes()[: -new.nbytes] + changed.tobytes())
    assert [row.position for row in job.samples(12) if row.error is not None and row.error > 0.01] == [100]


def test_history_counts_work_and_leaves_out_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.0, 102.0, 103.0, 5103.0, *np.arange(5104.0, 5111.0).tolist()])
    monkeypatch.setattr("fct_fast.gallery.job.ledger.time.time", lambda: next(clock))
    job = begun(tmp_path)
    job.run()
    history = job.history()
    assert history is not None
    assert history.rows.tolist() == [50] * 12
    assert history.pauses == 1
    assert history.seconds.tolist() == list(range(12))
    assert history.rows_per_second == pytest.approx(50)
    assert (history.started, history.ended) == (100.0, 5110.0)


def test_everything_is_escaped(tmp_path: Path) -> None:
    job = begun(tmp_path)
    job.run()
    changes: dict[str, Any] = dict.fromkeys(("sink", "level", "ids_dtype"), HOSTILE)
    changes |= {"notes": [HOSTILE], "warnings": [HOSTILE], "columns": [HOSTILE], "source": {HOSTILE: HOSTILE}}
    page = page_of(job, **changes)
    assert page.scripts == []
    assert page.text.count(HOSTILE) == 8
