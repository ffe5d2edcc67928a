"""What stops a job from outside: a full disk, another process, Ctrl-C. Kills, power cuts and errors of the disk are in
`proof/`."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_support import load_gallery, small_bundle, store, tree_digest

from fct_fast import errors
from fct_fast.bundle import write_bundle
from fct_fast.gallery import Job, backfill, plan_backfill

ROOT = Path(__file__).parents[2]


def test_disk_full_for_real(tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: the kernel refuses in the middle of a shard."""
    stored = store(tmp_path, 5000)
    bundle = small_bundle(stored.rows)
    write_bundle(tmp_path / "h.safetensors", spec=bundle.spec, spaces=bundle.spaces)
    code = f"""
import resource, signal, sys
import fct_fast
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
up = fct_fast.Upgrader({str(tmp_path / "h.safetensors")!r})
try:
    fct_fast.backfill({dict(stored.source)!r}, {str(tmp_path / "new.npy")!r}, up, shard_rows=500)
except fct_fast.errors.StoreError as error:
    assert "File too large" in str(error), error
    sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, cwd=ROOT, check=False).returncode == 7
    status = Job.open(tmp_path / "new.npy").status()
    assert (status.phase, status.shards) == ("stopped", 4)
    assert not (tmp_path / "new.npy").exists()
    assert backfill(stored.source, tmp_path / "new.npy", stored.up, shard_rows=500).resumed == 2000
    assert np.array_equal(np.load(tmp_path / "new.npy"), stored.expected)


def test_a_second_process_is_refused_at_once_and_changes_nothing(tmp_path: Path) -> None:
    stored = store(tmp_path)
    held, may_go = threading.Event(), threading.Event()

    def hold(progress: Any) -> None:
        held.set()
        assert may_go.wait(30)

    job = plan_backfill(stored.source, tmp_path / "new", stored.up, shard_rows=100)
    first = threading.Thread(target=job.run, args=(hold,))
    first.start()
    try:
        assert held.wait(30)
        time.sleep(0.2)  # the write behind comes to its end
        before = tree_digest(tmp_path)
        start = time.perf_counter()
        second = Job.open(tmp_path / "new")
        for step in (
            lambda: backfill(stored.source, tmp_path / "new", stored.up, shard_rows=100),
            second.verify,
            second.cutover,
            second.rollback,
        ):
            with pytest.raises(errors.JobLockedError, match="another process is working on the job"):
                step()
        assert time.perf_counter() - start < 1
        assert second.status().phase == "running"
        assert tree_digest(tmp_path) == before
    finally:
        may_go.set()
        first.join()
    assert np.array_equal(load_gallery(tmp_path / "new"), stored.expected)
    assert job.status().phase == "complete"


def test_interrupt_keeps_the_commits(tmp_path: Path) -> None:
    stored = store(tmp_path, 20_000)
    bundle = small_bundle(stored.rows)
    write_bundle(tmp_path / "h.safetensors", spec=bundle.spec, spaces=bundle.spaces)
    code = f"""
import os, signal, sys
import fct_fast
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits that it is ignored
def interrupt(progress):
    if progress.shards == 5:
        os.kill(os.getpid(), signal.SIGINT)
up = fct_fast.Upgrader({str(tmp_path / "h.safetensors")!r})
try:
    fct_fast.backfill({dict(stored.source)!r}, {str(tmp_path / "new.npy")!r}, up, shard_rows=100, progress=interrupt)
except KeyboardInterrupt:
    sys.exit(130)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, cwd=ROOT, check=False).returncode == 130
    status = Job.open(tmp_path / "new.npy").status()
    assert status.phase == "stopped"
    assert 5 <= status.shards <= 8
    assert backfill(stored.source, tmp_path / "new.npy", stored.up, shard_rows=100).resumed == status.rows
    assert np.array_equal(np.load(tmp_path / "new.npy"), stored.expected)
