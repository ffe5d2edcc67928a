"""A backfill on a GPU: right rows, the same bytes however the gallery is cut or the job was stopped, and verified."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_support import BOUNDS, gpu_tests, inputs_of, relative_error, spec_of

import fct_fast
from fct_fast import Upgrader, errors

pytestmark = gpu_tests


@pytest.fixture
def gallery(tmp_path):
    spec = spec_of(64, 64, 512, 64)
    old, side = inputs_of(spec, 50000)
    np.save(tmp_path / "old.npy", old)
    np.save(tmp_path / "side.npy", side)
    return spec, old, side, {"old": tmp_path / "old.npy", "side": tmp_path / "side.npy"}


def test_rows_are_right_and_verified(gallery, tmp_path):
    spec, old, side, source = gallery
    job = fct_fast.plan_backfill(source, tmp_path / "new.npy", Upgrader(spec, device="cuda"))
    assert job.plan.device == "cuda"
    assert job.plan.level.startswith("sm_")
    job.run()
    new = np.load(tmp_path / "new.npy")
    assert relative_error(new, spec.apply_float64(old, side)) <= BOUNDS["fp16"]
    assert job.verify().passed


def test_the_cut_changes_no_byte(gallery, tmp_path):
    spec, _, _, source = gallery
    up = Upgrader(spec, device="cuda")
    files = []
    for shard_rows in (7, 1000, 50000):
        limited = {"limit": 2100} if shard_rows == 7 else {}
        fct_fast.backfill(source, tmp_path / f"new{shard_rows}.npy", up, shard_rows=shard_rows, **limited)
        files.append(np.load(tmp_path / f"new{shard_rows}.npy"))
    np.testing.assert_array_equal(files[1], files[2])
    np.testing.assert_array_equal(files[0], files[2][:2100])


def test_a_job_does_not_change_its_device(gallery, tmp_path):
    spec, _, _, source = gallery
    fct_fast.backfill(source, tmp_path / "new.npy", Upgrader(spec, device="cuda", precision="fp32"))
    with pytest.raises(errors.LedgerMismatch, match="device was cuda and is cpu"):
        fct_fast.backfill(source, tmp_path / "new.npy", Upgrader(spec, device="cpu", precision="fp32"))
