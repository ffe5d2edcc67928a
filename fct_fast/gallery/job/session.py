"""A job directory, locked and opened: what every step of a job starts from."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fct_fast.bundle import Bundle, read_bundle
from fct_fast.errors import CorruptError, JobLockedError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.job.ledger import Ledger
from fct_fast.gallery.job.plan import Plan
from fct_fast.gallery.stores import open_sink
from fct_fast.gallery.stores.protocol import Sink

__all__ = ["BUNDLE", "LEDGER", "LOCK", "Session", "is_running", "locked", "session"]

LEDGER, LOCK, BUNDLE = "ledger.sqlite", "lock", "h.safetensors"


@dataclass
class Session:
    """An open job. Holds the lock of its directory, except where it was opened to look only."""

    plan: Plan
    ledger: Ledger
    sink: Sink
    fs: FileSystem

    @classmethod
    def open(cls, job_dir: Path, fs: FileSystem) -> Session:
        """Raises StoreError where there is no job, CorruptError where its ledger is damaged."""
        path = job_dir / LEDGER
        if not path.exists():
            raise StoreError(
                f"{job_dir} holds no job; give the job directory or the sink of a backfill that was started"
            )
        ledger = Ledger.open(path)
        try:
            plan = Plan.from_json(ledger.plan["plan"])
            sink = open_sink(plan.sink, plan.layout, ledger.plan["token"], fs)
        except (KeyError, TypeError, ValueError) as error:
            ledger.close()
            raise CorruptError(f"the ledger {path} holds no plan that this version can read ({error})") from error
        return cls(plan, ledger, sink, fs)

    @property
    def job_dir(self) -> Path:
        """Where the job is now, also after its directory was moved."""
        return self.ledger.path.parent

    @property
    def token(self) -> str:
        """The name of this job, unlike any other's."""
        return str(self.ledger.plan["token"])

    def bundle(self) -> Bundle:
        """The job's own copy of h. Raises BundleError, or CorruptError where it is not the one of the plan."""
        bundle = read_bundle(self.job_dir / BUNDLE)
        if bundle.digest != self.ledger.plan["bundle"]:
            raise CorruptError(f"{self.job_dir / BUNDLE} is not the bundle that this job was started with; restore it")
        return bundle

    def close(self) -> None:
        self.sink.close()
        self.ledger.close()


@contextlib.contextmanager
def locked(job_dir: Path, fs: FileSystem) -> Iterator[None]:
    """Hold the lock of a job directory. Raises JobLockedError, at once, where another process holds it."""
    for attempt in range(3):
        held = fs.lock(job_dir / LOCK)
        if held is not None:
            break
        if attempt == 2:
            raise JobLockedError(f"another process is working on the job in {job_dir}; wait for it or stop it")
        time.sleep(0.01)  # a look at the status takes the lock for a moment
    assert held is not None
    try:
        yield
    finally:
        fs.close_file(held, job_dir / LOCK)


@contextlib.contextmanager
def session(job_dir: Path, fs: FileSystem) -> Iterator[Session]:
    """An open, locked job that was started before."""
    if not (job_dir / LEDGER).exists():
        Session.open(job_dir, fs)
    with locked(job_dir, fs):
        opened = Session.open(job_dir, fs)
        try:
            yield opened
        finally:
            opened.close()


def is_running(job_dir: Path, fs: FileSystem) -> bool:
    """Whether a process works on the job at this moment."""
    if not (job_dir / LOCK).exists():
        return False
    held = fs.lock(job_dir / LOCK, shared=True)
    if held is not None:
        fs.close_file(held, job_dir / LOCK)
    return held is None
