"""Whatever stops a job, and whenever: the same call again ends with the bytes of an undisturbed run."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_support import FaultyDisk, leftovers, load_gallery, small_bundle, store, tree_digest

from fct_fast import errors
from fct_fast.bundle import write_bundle
from fct_fast.fs import DISK
from fct_fast.gallery import Job, backfill, plan_backfill

ROOT = Path(__file__).parents[2]
SINKS = ["new.npy", "new"]
KILLS = 60
KILLS_UNDER_STRESS = 3000


class Worker:
    """A process that runs backfills in children and kills them; see crash_worker.py."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name("crash_worker.py")), str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def run(self, sink: str, kill_after: float | None = None) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"sink": sink, "kill_after": kill_after}) + "\n")
        self.process.stdin.flush()
        return int(json.loads(self.process.stdout.readline())["exit"])

    def close(self) -> None:
        self.process.communicate(timeout=60)


@pytest.fixture
def crash_folder(tmp_path: Path) -> Path:
    """A gallery with a bad row and with ids."""
    folder = tmp_path
    stored = store(folder, 400, ids=True)
    rows = stored.rows.old.copy()
    rows[111, 2] = np.nan
    np.save(folder / "old.npy", rows)
    bundle = small_bundle(stored.rows)
    write_bundle(folder / "h.safetensors", spec=bundle.spec, spaces=bundle.spaces)
    (folder / "out").mkdir()
    return folder


@pytest.fixture
def worker(crash_folder: Path) -> Iterator[Worker]:
    running = Worker(crash_folder)
    yield running
    running.close()


def products(folder: Path) -> dict[str, str]:
    """What a job leaves for its reader: everything but its own directory."""
    return {p.name: tree_digest(p) for p in folder.iterdir() if not p.name.endswith(".job")}


@pytest.mark.parametrize(
    "kills", [KILLS, pytest.param(KILLS_UNDER_STRESS, marks=pytest.mark.stress)], ids=["short", "stress"]
)
def test_killed_at_random_moments_then_resumed_gives_the_same_bytes(
    kills: int, crash_folder: Path, worker: Worker
) -> None:
    out, rng = crash_folder / "out", np.random.default_rng()
    seed = int(rng.integers(1 << 32))
    rng = np.random.default_rng(seed)
    reference: dict[str, dict[str, str]] = {}
    seconds: dict[str, float] = {}
    for sink in SINKS * 3:
        start = time.perf_counter()
        assert worker.run(sink) == 0
        seconds[sink] = time.perf_counter() - start
        reference.setdefault(sink, products(out))
        assert products(out) == reference[sink]
        shutil.rmtree(out)
        out.mkdir()
    stopped = trial = 0
    while stopped < kills:
        sink = SINKS[trial % 2]
        trial += 1
        assert trial < 10 * kills, "the runs end before they are killed"
        for part in (1.0, 0.5, 0.5)[: rng.integers(1, 4)]:  # a resumed run is killed too
            status = worker.run(sink, kill_after=float(rng.uniform(0, part * seconds[sink])))
            assert status in (0, signal.SIGKILL), f"seed {seed}"
            stopped += status != 0
        assert worker.run(sink) == 0, f"seed {seed}"
        assert products(out) == reference[sink], f"seed {seed}, trial {trial}"
        assert leftovers(out) == [], f"seed {seed}, trial {trial}"
        shutil.rmtree(out)
        out.mkdir()


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize(("code", "for_good"), [(errno.EIO, False), (errno.ENOSPC, True)])
def test_every_failing_call_ends_the_job_with_its_commits_kept(
    tmp_path: Path, sink: str, code: int, for_good: bool
) -> None:
    """The n-th call fails, for every n: a typed error, nothing half-published, no fsync tried again; resume is exact."""
    stored = store(tmp_path, 90, ids=True)

    def run(folder: Path, fs: Any = DISK) -> Any:
        return backfill(stored.source, folder / sink, stored.up, shard_rows=30, fs=fs)

    (tmp_path / "whole").mkdir()
    counting = FaultyDisk()
    run(tmp_path / "whole", counting)
    reference = products(tmp_path / "whole")
    for n in range(1, counting.calls + 1):
        folder = tmp_path / "run"
        folder.mkdir()
        disk = FaultyDisk(n, code, for_good=for_good)
        with pytest.raises(errors.StoreError, match=r"^cannot \w+ .*: [A-Z].*$"):
            run(folder, disk)
        assert disk.log[n - 1] != "fsync" or "fsync" not in disk.log[n:], "fsync was tried again"
        if (folder / sink).exists():
            assert np.array_equal(load_gallery(folder / sink), stored.expected)
        job_dir = folder / f"{sink}.job"
        done = Job.open(folder / sink).status().rows if (job_dir / "ledger.sqlite").exists() else 0
        assert run(folder).resumed == done
        assert products(folder) == reference, (n, disk.log[n - 1])
        shutil.rmtree(folder)


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
