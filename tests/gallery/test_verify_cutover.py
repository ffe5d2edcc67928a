"""Verification finds what is wrong with a gallery; only a verified one goes live; a rollback restores what was."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_support import NEW_DIM, Stopped, Stored, small_bundle, small_spec, stop_after, store, tree_digest

from fct_fast import errors
from fct_fast.gallery import Job, backfill, plan_backfill, read_live
from fct_fast.gallery.job.ledger import Ledger
from fct_fast.upgrader import Upgrader

SINKS = ["new.npy", "new"]


@pytest.fixture(params=SINKS)
def sink(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return tmp_path / str(request.param)


def finished(folder: Path, sink: Path, **options: Any) -> tuple[Stored, Job]:
    stored = store(folder, ids=True)
    job = plan_backfill(stored.source, sink, stored.up, shard_rows=300, **options)
    job.run()
    return stored, job


def failing(job: Job) -> dict[str, str]:
    """The checks that fail, from the recorded outcome."""
    with pytest.raises(errors.VerificationError, match=r"failed its verification .*; do not serve it"):
        job.verify()
    verification = job.status().verification
    assert verification is not None
    assert not verification.passed
    assert job.status().phase == "failed verification"
    with pytest.raises(errors.VerificationError):
        job.cutover()
    return {check.name.split(" ")[0]: check.detail for check in verification.checks if not check.passed}


def edit(sink: Path, row: int, change: Any, *, ids: bool = False) -> None:
    """Change one stored row in place."""
    file, first = (sink, 0) if sink.suffix else (sink / f"part-{row // 300:06d}.npy", row // 300 * 300)
    file = file.with_name(file.stem + ".ids.npy") if ids else file
    rows = np.load(file)
    rows[row - first] = change(rows[row - first].copy())
    file.write_bytes(file.read_bytes()[: -rows.nbytes] + rows.tobytes())


def recommit(job: Job) -> None:
    """Make the ledger believe what is stored now: what a wrong kernel would have committed."""
    from fct_fast.fs import DISK
    from fct_fast.gallery.job.session import LEDGER, Session

    path = Path(job.plan.job_dir) / LEDGER
    session = Session.open(path.parent, DISK)
    records = [session.ledger.record(index) for index in sorted(session.ledger.done)]
    loaded = [session.sink.load(job.plan.layout.shard(index)) for index in sorted(session.ledger.done)]
    plan = session.ledger.plan
    session.close()
    path.unlink()
    ledger = Ledger.create(path, plan, DISK)
    for record, shard in zip(records, loaded, strict=True):
        zero = np.flatnonzero(~shard.new.any(axis=1))
        ledger.commit(type(record)(record.shard, shard.digest, zero))
    ledger.note(published=True)
    ledger.close()


def test_a_good_gallery_passes_with_all_that_was_checked(tmp_path: Path, sink: Path) -> None:
    stored, job = finished(tmp_path, sink)
    assert job.status().phase == "complete"
    before = tree_digest(sink)
    verification = job.verify(sample_rows=500)
    names = [check.name for check in verification.checks]
    assert names == ["counts", "checksums", "ids", "norms", "flagged rows", "space", "500 sampled rows against float64"]
    assert verification.passed
    assert job.status().phase == "verified"
    assert Job.open(sink).status().verification == verification
    assert Job.open(f"{sink}.job").status().phase == "verified"
    assert tree_digest(sink) == before
    json.dumps(job.status().to_json())
    assert stored.expected.shape == (1000, NEW_DIM)


def test_one_changed_bit_fails_the_checksum(tmp_path: Path, sink: Path) -> None:
    _, job = finished(tmp_path, sink)
    edit(sink, 420, lambda row: row * np.float32(1 + 2**-23))
    failures = failing(job)
    assert list(failures) == ["checksums"]
    assert "differs from what was committed" in failures["checksums"]
    edit(sink, 999, lambda row: row * 2)  # in the last shard, which every run looks at
    with pytest.raises(errors.CorruptError, match="--repair"):
        job.run()
    job.run(repair=True)
    assert job.verify().passed


def test_a_wrong_row_that_the_ledger_believes_fails_the_oracle(tmp_path: Path, sink: Path) -> None:
    _, job = finished(tmp_path, sink)
    edit(sink, 700, lambda row: np.roll(row, 1))  # still a unit row
    recommit(job)
    with pytest.raises(errors.VerificationError, match=r"sampled rows against float64.*row 700"):
        job.verify(sample_rows=1000)


def test_a_row_that_is_no_unit_row_or_was_lost_fails(tmp_path: Path, sink: Path) -> None:
    _, job = finished(tmp_path, sink)
    edit(sink, 5, lambda row: row * np.float32(1.00001))
    recommit(job)
    assert "row 5 in" in failing(job)["norms"]
    edit(sink, 5, lambda row: row * np.nan)
    recommit(job)
    assert "row 5 in" in failing(job)["norms"]
    edit(sink, 5, np.zeros_like)
    assert "1 zero rows, 0 were recorded" in failing(job)["flagged"]


def test_other_ids_fail(tmp_path: Path, sink: Path) -> None:
    _, job = finished(tmp_path, sink)
    edit(sink, 999, lambda i: i + 1, ids=True)
    assert set(failing(job)) == {"checksums", "ids"}
    recommit(job)
    assert set(failing(job)) == {"ids"}


def test_missing_files_fail(tmp_path: Path, sink: Path) -> None:
    _, job = finished(tmp_path, sink)
    (sink.with_name("new.ids.npy") if sink.suffix else sink / "part-000002.ids.npy").unlink()
    assert {"counts", "checksums"} <= set(failing(job))


def test_another_stamp_fails(tmp_path: Path, sink: Path) -> None:
    _, job = finished(tmp_path, sink)
    stamp = sink.with_name("new.space.json") if sink.suffix else sink / "space.json"
    text = stamp.read_text()
    for changed in (text.replace("new-1", "old-1"), "{}"):
        stamp.write_text(changed)
        assert list(failing(job)) == ["space"]
    stamp.unlink()
    assert "carries no space fingerprint" in failing(job)["space"]


def test_float16_galleries_pass_and_fail_within_their_own_bounds(tmp_path: Path, sink: Path) -> None:
    _, job = finished(tmp_path, sink, out_dtype="float16")
    assert job.verify().passed
    edit(sink, 3, lambda row: row * np.float16(1.01))
    recommit(job)
    assert {"norms", "1,000"} <= set(failing(job))


def _precisions() -> list[str]:
    """Those that this machine runs."""
    found = []
    for precision in ("fp32", "bf16", "int8"):
        with contextlib.suppress(errors.FctError):
            found.append(Upgrader(small_spec(), precision=precision).precision)
    return found


@pytest.mark.parametrize("precision", _precisions())
def test_each_precision_passes_within_its_own_bounds_and_is_part_of_the_job(tmp_path: Path, precision: str) -> None:
    stored = store(tmp_path)
    up = Upgrader(small_bundle(stored.rows), precision=precision)
    job = plan_backfill(stored.source, tmp_path / "new", up)
    job.run()
    assert job.verify().passed
    for other in set(_precisions()) - {precision}:
        with pytest.raises(errors.LedgerMismatch, match=f"precision was {precision} and is {other}"):
            backfill(stored.source, tmp_path / "new", Upgrader(small_bundle(stored.rows), precision=other))
    edit(tmp_path / "new", 3, lambda row: np.roll(row, 1))
    recommit(job)
    with pytest.raises(errors.VerificationError, match=r"against float64.*row 3"):
        job.verify()


def test_overlap_with_true_new_embeddings(tmp_path: Path, sink: Path) -> None:
    stored, job = finished(tmp_path, sink)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(1000)[:200]
    ids, true = stored.rows.ids[chosen], stored.expected[chosen]
    assert job.verify(reference=(true, ids)).overlap == 1
    noisy = true + 0.3 * rng.standard_normal(true.shape).astype(np.float32)
    share = job.verify(reference=(noisy, ids), k=5).overlap
    assert share == pytest.approx(_overlap(true, noisy, 5), abs=1e-12)
    assert 0.1 < share < 0.9
    with pytest.raises(errors.VerificationError, match=r"overlap@10: 0\.\d+ on 200 rows .* at least 0\.950 asked for"):
        job.verify(reference=(noisy, ids), min_overlap=0.95)
    assert job.status().phase == "failed verification"
    shuffled = rng.permutation(200)
    assert job.verify(reference=(true[shuffled], ids[shuffled])).overlap == 1
    for reference, k, error, sentence in [
        ((true[:, :3], ids), 10, errors.ShapeError, r"a reference is rows \[m, 12\]"),
        ((true, ids[:5]), 10, errors.ShapeError, "a reference is rows"),
        ((true[:10], ids[:10]), 10, errors.ConfigError, "needs more than 10 reference rows"),
        ((true, ids + 1), 10, errors.ConfigError, "names the id"),
    ]:
        with pytest.raises(error, match=sentence):
            job.verify(reference=reference, k=k)


def _overlap(upgraded: Any, true: Any, k: int) -> float:
    """Shared k nearest neighbours by cosine, each row left out of its own."""

    def nearest(gallery: Any) -> Any:
        unit = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
        queries = true / np.linalg.norm(true, axis=1, keepdims=True)
        scores = queries.astype(np.float64) @ unit.T.astype(np.float64)
        np.fill_diagonal(scores, -np.inf)
        return np.argsort(-scores, axis=1)[:, :k]

    pairs = zip(nearest(true), nearest(upgraded), strict=True)
    return float(np.mean([len(set(a) & set(b)) / k for a, b in pairs]))


def test_a_job_that_is_not_complete_is_neither_verified_nor_made_live(tmp_path: Path, sink: Path) -> None:
    stored = store(tmp_path)
    with pytest.raises(Stopped):
        backfill(stored.source, sink, stored.up, shard_rows=300, progress=stop_after(1))
    job = Job.open(sink)
    assert job.status().phase == "stopped"
    for step in (job.verify, job.cutover):
        with pytest.raises(errors.VerificationError, match="is not complete"):
            step()
    with pytest.raises(errors.ConfigError, match="call backfill as it was called first"):
        job.run()


def test_cutover_and_rollback(tmp_path: Path, sink: Path) -> None:
    stored, job = finished(tmp_path, sink)
    live = tmp_path / "live.json"
    with pytest.raises(errors.VerificationError, match="is not verified"):
        job.cutover()
    with pytest.raises(errors.VerificationError, match="nothing to roll back"):
        job.rollback()
    job.verify()
    assert not live.exists()
    pointer = job.cutover()
    assert pointer == read_live(live)
    assert pointer["gallery"] == str(sink)
    assert pointer["space"] == {"model_id": "new-1", "dim": NEW_DIM, "metric": "cosine", "normalized": True}
    assert job.status().phase == "live"
    assert job.cutover() == pointer
    back = job.rollback()
    assert back == read_live(live)
    assert back["gallery"] == stored.source["old"]
    assert back["space"]["model_id"] == "old-1"
    assert job.status().phase == "verified"
    with pytest.raises(errors.VerificationError, match="nothing to roll back"):
        job.rollback()
    assert job.cutover()["gallery"] == str(sink)


def test_rollback_restores_the_very_pointer_that_was_there(tmp_path: Path, sink: Path) -> None:
    stored, job = finished(tmp_path, sink)
    job.verify()
    live = tmp_path / "serving" / "pointer.json"
    job.cutover(live)
    job.rollback()
    before = live.read_bytes()
    job.cutover(live)
    assert live.read_bytes() != before
    job.rollback()
    assert live.read_bytes() == before
    assert stored.source["old"] in before.decode()


def test_a_gallery_changed_after_its_verification_is_not_made_live(tmp_path: Path, sink: Path) -> None:
    _, job = finished(tmp_path, sink)
    job.verify()
    edit(sink, 0, lambda row: -row)
    with pytest.raises(errors.VerificationError, match="was changed since it was verified"):
        job.cutover()


def test_a_pointer_of_another_gallery_is_left_alone(tmp_path: Path, sink: Path) -> None:
    _, job = finished(tmp_path, sink)
    job.verify()
    live = tmp_path / "live.json"
    job.cutover()
    pointer = json.loads(live.read_text())
    for content, error, sentence in [
        (json.dumps(pointer | {"gallery": "/products.npy", "job": None}), errors.StoreError, "serves /products.npy"),
        ("{}", errors.CorruptError, "is no pointer file"),
        ("[1, 2", errors.CorruptError, "is no pointer file"),
    ]:
        live.write_text(content)
        for step in (job.cutover, job.rollback):
            with pytest.raises(error, match=sentence):
                step()
        assert live.read_text() == content


def test_two_jobs_in_a_row_roll_back_in_reverse_order(tmp_path: Path) -> None:
    stored, first = finished(tmp_path, tmp_path / "v2.npy")
    first.verify()
    first.cutover()
    second_h = _identity_of(stored.up)
    second = plan_backfill(tmp_path / "v2.npy", tmp_path / "v3.npy", second_h)
    second.run()
    second.verify()
    assert second.cutover()["previous"]["gallery"] == str(tmp_path / "v2.npy")
    assert first.status().phase == "verified"
    with pytest.raises(errors.StoreError, match=r"serves .*v3\.npy, not .*v2\.npy; roll back what came after"):
        first.rollback()
    second.rollback()
    assert first.status().phase == "live"
    assert first.rollback()["gallery"] == stored.source["old"]


def _identity_of(up: Upgrader) -> Upgrader:
    from fct_fast.spec import Branch, Layer, TransformSpec

    layer = Layer(np.eye(NEW_DIM, dtype=np.float32), np.zeros(NEW_DIM, np.float32), relu=False)
    return Upgrader(TransformSpec(NEW_DIM, 0, NEW_DIM, (Branch("old", ()),), (layer,)), threads=up.threads)


def test_a_damaged_copy_of_h_is_reported(tmp_path: Path, sink: Path) -> None:
    _, job = finished(tmp_path, sink)
    copy = Path(job.plan.job_dir) / "h.safetensors"
    data = bytearray(copy.read_bytes())
    data[-5] ^= 1
    copy.write_bytes(data)
    with pytest.raises(errors.BundleError, match="SHA-256"):
        Job.open(sink).verify()
