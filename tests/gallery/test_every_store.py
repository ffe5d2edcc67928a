"""The whole way of a job, over every store: plan, stop, resume, verify, cutover, rollback; the source is never changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_support import NEW_DIM, Rows, Stopped, leftovers, make_rows, small_bundle, stop_after, tree_digest
from store_cases import Case, cases

from fct_fast import errors
from fct_fast.gallery import Job, backfill, plan_backfill
from fct_fast.gallery.stores import open_source
from fct_fast.gallery.stores.payload import first_difference
from fct_fast.gallery.stores.protocol import Shard
from fct_fast.spec import Branch, Layer, TransformSpec
from fct_fast.upgrader import Upgrader

COUNT = 700
CASES = [pytest.param(case, id=case.name) for case in cases()]


class World:
    """A gallery in a store, and the upgrader of its space."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.case, self.folder = case, folder
        self.ids = case.with_ids[-1]
        for name in ("in", "out", "jobs"):
            (folder / name).mkdir()
        self.rows = make_rows(COUNT)
        self.source = dict(case.put(folder / "in", self.rows, self.ids))
        self.sink = case.sink(folder / "out")
        self.up = Upgrader(small_bundle(self.rows), threads=1)
        self.options: dict[str, Any] = {"shard_rows": 90, "job_dir": folder / "jobs" / "job"}

    def plan(self, **changes: Any) -> Job:
        return plan_backfill(self.source, self.sink, self.up, **self.options | changes)

    def run(self, **changes: Any) -> Any:
        return backfill(self.source, self.sink, self.up, **self.options | changes)

    def check(self, sink: str) -> None:
        """Every row is the upgraded one of its id, with its payload."""
        back = open_source(sink)
        read = back.read(Shard(0, 0, COUNT))
        order = self.order(back.all_ids())
        expected: Any = self.up(self.rows.old[order], self.rows.side[order])
        assert read.old.shape == (COUNT, NEW_DIM)
        assert np.array_equal(read.old, expected)
        if self.case.payload:
            assert first_difference(self.rows.payload().take(order), read.payload) is None
        back.close()

    def order(self, ids: Any) -> Any:
        place = {value: row for row, value in enumerate(self.rows.ids.tolist())}
        return np.arange(COUNT) if ids is None else np.array([place[value] for value in ids.tolist()])

    def content(self) -> Any:
        """All that the source holds."""
        source = open_source(self.source)
        read, identity = source.read(Shard(0, 0, COUNT)), source.identity()
        source.close()
        payload = None if read.payload is None else repr(read.payload.to_pylist())
        return read.old.tobytes(), read.side if read.side is None else read.side.tobytes(), payload, identity


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> World:
    return World(tmp_path, request.param)


@pytest.mark.parametrize("world", CASES, indirect=True)
def test_the_whole_way_of_a_job(world: World) -> None:
    before, files = world.content(), tree_digest(world.folder / "in")
    planned = world.plan().plan
    assert (planned.rows, planned.shards) == (COUNT, 8)
    assert planned.columns == (list(world.rows.payload().column_names) if world.case.payload else [])
    assert planned.bytes_out >= COUNT * NEW_DIM * 4
    assert list((world.folder / "jobs").iterdir()) == list((world.folder / "out").iterdir()) == []
    with pytest.raises(Stopped):
        world.run(progress=stop_after(3))
    stopped = Job.open(world.options["job_dir"]).status()
    assert stopped.phase == "stopped"
    assert 3 <= stopped.shards < 8
    report = world.run()
    assert report.resumed == stopped.rows
    assert world.run().resumed == COUNT  # again is a no-op
    job = Job.open(world.options["job_dir"])
    assert job.status().phase == "complete"
    with pytest.raises(errors.VerificationError, match="is not verified"):
        job.cutover()
    verification = job.verify(sample_rows=200)
    assert verification.passed
    names = [check.name for check in verification.checks]
    assert ("payload" in names) == world.case.payload
    world.check(planned.sink)
    assert len(job.samples(4)) == 4
    assert world.content() == before
    assert tree_digest(world.folder / "in") == files or world.case.in_place
    live_way(world, job)


def live_way(world: World, job: Job) -> None:
    """Cutover, again, rollback, again: one live gallery at any time."""
    before = world.content()
    pointer = job.cutover()
    assert pointer["space"]["model_id"] == "new-1"
    assert job.status().phase == "live"
    assert job.cutover()["gallery"] == pointer["gallery"]
    if job.plan.store_cutover:
        world.check(world.source["old"])  # the old name serves the new rows
        assert Job.open(world.options["job_dir"]).verify().passed  # still against the rows that it read
        assert job.status().phase == "live"
    job.rollback()
    assert job.status().phase == "verified"
    assert world.content()[:3] == before[:3]
    with pytest.raises(errors.VerificationError, match="nothing to roll back"):
        job.rollback()
    assert job.cutover()["gallery"] == pointer["gallery"]
    assert job.status().phase == "live"
    if world.case.files:
        assert leftovers(world.folder / "out") == []


@pytest.mark.parametrize("world", CASES, indirect=True)
def test_another_source_or_option_is_another_job(world: World) -> None:
    with pytest.raises(Stopped):
        world.run(progress=stop_after(2))
    for change in ({"shard_rows": 91}, {"nonfinite": "flag"}, {"limit": 500}):
        with pytest.raises(errors.LedgerMismatch, match="belongs to another job"):
            world.run(**change)
    assert world.run().rows == COUNT


@pytest.mark.parametrize("world", CASES, indirect=True)
def test_a_bad_row_ends_the_job_and_is_named_or_flagged(tmp_path: Path, world: World) -> None:
    rows = Rows(world.rows.old.copy(), world.rows.side, world.rows.ids)
    rows.old[123] = 3e38  # overflows in h; not every store can hold NaN
    world.options["scale_check"] = "off"
    (tmp_path / "bad").mkdir()
    world.source = dict(world.case.put(tmp_path / "bad", rows, world.ids))
    source = open_source(world.source)
    row = int(np.flatnonzero(world.order(source.all_ids()) == 123)[0])
    source.close()
    with pytest.raises(errors.NonFiniteError, match=rf"row {row} of .* holds NaN or Inf, or overflows"):
        world.run()
    world.options["job_dir"] = tmp_path / "jobs" / "second"
    world.sink = world.case.sink(tmp_path / "bad")
    assert world.run(nonfinite="flag").flagged == 1
    job = Job.open(world.options["job_dir"])
    assert job.flagged_rows().tolist() == [row]
    assert job.verify().passed


@pytest.mark.parametrize("world", CASES, indirect=True)
def test_the_next_upgrade_starts_from_the_live_gallery(tmp_path: Path, world: World) -> None:
    """A pointer serves the place that was written, the next job names it with its column or version."""
    world.run()
    first = Job.open(world.options["job_dir"])
    first.verify()
    first.cutover()
    if first.plan.store_cutover:
        return  # there the live gallery keeps its name
    layer = Layer(np.eye(NEW_DIM, dtype=np.float32), np.zeros(NEW_DIM, np.float32), relu=False)
    again = Upgrader(TransformSpec(NEW_DIM, 0, NEW_DIM, (Branch("old", ()),), (layer,)), threads=1)
    (tmp_path / "next").mkdir()
    second = plan_backfill(
        first.plan.sink, world.case.sink(tmp_path / "next"), again, job_dir=tmp_path / "jobs" / "second"
    )
    second.run()
    second.verify()
    if not second.plan.store_cutover:
        assert second.cutover(world.folder / "out" / "live.json")["previous"]["gallery"] == first.plan.sink
