"""A backfill as one object: plan, run, status, verify, cutover, rollback."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError
from fct_fast.fs import DISK, FileSystem
from fct_fast.gallery.job.cutover import cutover_job, is_live, live_in_store, read_live, rollback_job
from fct_fast.gallery.job.inspect import History, SampleRow, history_of, samples_of
from fct_fast.gallery.job.ledger import State
from fct_fast.gallery.job.plan import Nonfinite, Options, OutDtype, Plan, ScaleCheck, make_plan
from fct_fast.gallery.job.run import Progress, Report, run_job
from fct_fast.gallery.job.session import LEDGER, Session, is_running, session
from fct_fast.gallery.job.verify import Verification, verify_job
from fct_fast.gallery.stores import Join, Place, PlaceLike, open_sink, open_source
from fct_fast.gallery.stores.place import absolute
from fct_fast.gallery.stores.protocol import Source

if TYPE_CHECKING:
    from fct_fast.bundle import Bundle
    from fct_fast.spec import TransformSpec
    from fct_fast.transform import ForwardTransform
    from fct_fast.upgrader import Upgrader

__all__ = ["Job", "Status", "backfill", "plan_backfill"]

SHOWN_FLAGGED = 20

Phase = Literal["planned", "running", "stopped", "complete", "verified", "failed verification", "live"]


@dataclass(frozen=True)
class Status:
    """Where a job stands, read from its ledger, its lock and the pointer file.

    phase: "planned" (nothing written), "running" (a process works on it now), "stopped" (resume it), "complete" (to be
    verified), "verified", "failed verification", "live". rows, shards, flagged: committed so far; first_flagged: the
    numbers of the first rows that were written as zero rows (`Job.flagged_rows` has all).
    """

    phase: Phase
    rows: int
    total_rows: int
    shards: int
    total_shards: int
    flagged: int
    first_flagged: tuple[int, ...]
    sink: str
    job_dir: str
    verification: Verification | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Job:
    """One backfill. From `plan_backfill`, or of a job that was started: `Job.open(job directory or sink)`.

    Only a planned job can `run`, since that needs the upgrader; the other steps need the job directory and the source.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        source: Source | None = None,
        up: Upgrader | None = None,
        throttle: float | None = None,
        fs: FileSystem = DISK,
    ) -> None:
        self.plan = plan
        self._source, self._up, self._throttle, self._fs = source, up, throttle, fs
        self._job_dir = Path(plan.job_dir)

    @classmethod
    def open(cls, place: PlaceLike, fs: FileSystem = DISK) -> Job:
        """A job that was started, by its directory or by its sink (where the directory is the default one).

        Raises StoreError where there is none, CorruptError where its ledger is damaged.
        """
        sink = Place.parse(place)
        given = None if sink.scheme else sink.path
        job_dir = given if given is not None and (given / LEDGER).exists() else sink.beside(".job")
        opened = Session.open(job_dir if job_dir.exists() or given is None else given, fs)
        opened.close()
        job = cls(opened.plan, fs=fs)
        job._job_dir = job_dir
        return job

    def run(self, progress: Callable[[Progress], None] | None = None, *, repair: bool = False) -> Report:
        """Start or resume the job and carry it to its end.

        progress: called in this thread after each commit. repair: compute again what was committed and is now damaged
        or gone. Ctrl-C ends it with all commits kept. Raises JobLockedError where another process runs it,
        LedgerMismatch where the directory belongs to another job (or the source changed), StoreError, CorruptError,
        NonFiniteError."""
        if self._up is None or self._source is None:
            raise ConfigError("this job was opened to look at; to run it, call backfill as it was called first")
        return run_job(
            self.plan,
            self._source,
            self._up,
            self._fs,
            repair=repair,
            throttle=self._throttle,
            progress=progress,
        )

    def status(self) -> Status:
        """Takes no lock and changes nothing."""
        phase: Phase = "planned"
        state, verification, rows, first_flagged = State(), None, 0, []
        if (self._job_dir / LEDGER).exists():
            with contextlib.closing(Session.open(self._job_dir, self._fs)) as job:
                state = job.ledger.state
                rows = sum(self.plan.layout.shard(index).rows for index in job.ledger.done)
                first_flagged = list(itertools.islice(_flagged(job), SHOWN_FLAGGED))
                verification = Verification.from_json(state.verification) if state.verification else None
                phase = self._phase(job, verification)
        return Status(
            phase=phase,
            rows=rows,
            total_rows=self.plan.rows,
            shards=state.shards,
            total_shards=self.plan.shards,
            flagged=state.flagged,
            first_flagged=tuple(first_flagged),
            sink=self.plan.sink,
            job_dir=str(self._job_dir),
            verification=verification,
        )

    def flagged_rows(self) -> npt.NDArray[np.int64]:
        """The numbers of all rows that were written as zero rows so far, rising. Raises StoreError before the start."""
        with contextlib.closing(Session.open(self._job_dir, self._fs)) as job:
            return np.fromiter(_flagged(job), np.int64)

    def history(self) -> History | None:
        """How fast the job went, commit by commit; None before the first one."""
        if not (self._job_dir / LEDGER).exists():
            return None
        with contextlib.closing(Session.open(self._job_dir, self._fs)) as job:
            return history_of(job)

    def samples(self, count: int = 8) -> list[SampleRow]:
        """The first rows of up to `count` committed shards, held against the transformation in float64. Raises
        StoreError where source or sink cannot be read."""
        if not (self._job_dir / LEDGER).exists():
            return []
        with contextlib.closing(Session.open(self._job_dir, self._fs)) as job:
            return samples_of(job, self._opened_source(job), count)

    def verify(
        self,
        *,
        sample_rows: int = 1024,
        reference: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        k: int = 10,
        min_overlap: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Verification:
        """Check the finished gallery, and record the outcome, which `cutover` asks for.

        sample_rows: how many rows are computed anew in float64. reference: (rows [m, new_dim], ids [m]), true new
        embeddings of some rows (ids as in the gallery, row positions where it has none); then overlap@k is measured,
        and below `min_overlap` the check fails. progress: called with (rows done, rows). Raises VerificationError where
        a check fails or the job is not complete, JobLockedError, ConfigError, ShapeError."""
        with session(self._job_dir, self._fs) as job:
            return verify_job(
                job,
                self._opened_source(job),
                sample_rows=sample_rows,
                reference=reference,
                k=k,
                min_overlap=min_overlap,
                progress=progress,
            )

    def cutover(self, live: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        """Make the upgraded gallery the live one; returns the pointer, whose "space" says which model embeds queries
        now.

        A store that can switches in one transaction; elsewhere the pointer file `live` does (default: `live.json`
        beside the sink). Again is a no-op. Raises VerificationError where the job is not complete and verified,
        StoreError where another gallery is live than the one that the job read, JobLockedError.
        """
        with session(self._job_dir, self._fs) as job:
            return cutover_job(job, Path(live).absolute() if live is not None else None, self._fs)

    def rollback(self) -> dict[str, Any]:
        """Undo the cutover; returns the pointer that is in force again. Raises VerificationError where the job is not
        live, StoreError where a later cutover changed the pointer, JobLockedError."""
        with session(self._job_dir, self._fs) as job:
            return rollback_job(job, self._fs)

    def _opened_source(self, job: Session) -> Source:
        if self._source is None:
            self._source = open_source(dict(job.plan.source), self._fs, join=job.plan.join)
        return self._source

    def _phase(self, job: Session, verification: Verification | None) -> Phase:
        state = job.ledger.state
        if is_running(self._job_dir, self._fs):
            return "running"
        if not state.published:
            return "stopped"
        if live_in_store(job):
            return "live"
        if state.live is not None and state.live["pointer"] and is_live(job, read_live(state.live["pointer"])):
            return "live"
        if verification is None:
            return "complete"
        return "verified" if verification.passed else "failed verification"


def plan_backfill(
    source: PlaceLike | Mapping[str, PlaceLike],
    sink: PlaceLike,
    up: Upgrader | str | os.PathLike[str] | Bundle | ForwardTransform | TransformSpec,
    *,
    shard_rows: int | Literal["auto"] = "auto",
    job_dir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    out_dtype: OutDtype = "float32",
    nonfinite: Nonfinite = "raise",
    scale_check: ScaleCheck = "raise",
    join: Join = "row",
    drop_payload: bool = False,
    max_memory: int | None = None,
    throttle: float | None = None,
    fs: FileSystem = DISK,
) -> Job:
    """Lay out a backfill and refuse what cannot work; nothing is written.

    source: the place of a gallery (README "Places": a path or URI, `#column` where a store has columns), or
    {"old": ..., "side": ..., "ids": ...} where these are named apart; join: how side-information in a gallery of its
    own is joined, by "row" or by "id". sink: a place where nothing is yet. up: an Upgrader, or what one is made from.
    shard_rows: rows committed as one ("auto": about 64 MiB of input and output). job_dir: default `<sink>.job`. limit:
    only the first rows. nonfinite: "raise", or "flag" to write rows with NaN or Inf as zero rows, which are counted and
    listed.
    scale_check: what to do where the source does not have the scale that h was fitted on. drop_payload: leave the other
    columns of the rows behind. max_memory: bytes that the job may take. throttle: rows a second at most.

    Raises ConfigError, ShapeError, DtypeError, SpaceError, StoreError, NonFiniteError; with a sentence each.
    """
    options = Options(shard_rows, limit, out_dtype, nonfinite, scale_check, join, drop_payload, max_memory, throttle)
    return _planned(source, sink, up, job_dir, options, fs, timed=True)


def backfill(
    source: PlaceLike | Mapping[str, PlaceLike],
    sink: PlaceLike,
    up: Upgrader | str | os.PathLike[str] | Bundle | ForwardTransform | TransformSpec,
    *,
    shard_rows: int | Literal["auto"] = "auto",
    job_dir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    out_dtype: OutDtype = "float32",
    nonfinite: Nonfinite = "raise",
    scale_check: ScaleCheck = "raise",
    join: Join = "row",
    drop_payload: bool = False,
    max_memory: int | None = None,
    throttle: float | None = None,
    repair: bool = False,
    progress: Callable[[Progress], None] | None = None,
    fs: FileSystem = DISK,
) -> Report:
    """Upgrade a stored gallery; the same call again resumes what was stopped, or reports what is done.

    Options as in `plan_backfill`, `progress` and `repair` as in `Job.run`.
    """
    options = Options(shard_rows, limit, out_dtype, nonfinite, scale_check, join, drop_payload, max_memory, throttle)
    return _planned(source, sink, up, job_dir, options, fs, timed=False).run(progress, repair=repair)


def _planned(
    source: PlaceLike | Mapping[str, PlaceLike],
    sink: PlaceLike,
    up: Any,
    job_dir: str | os.PathLike[str] | None,
    options: Options,
    fs: FileSystem,
    *,
    timed: bool,
) -> Job:
    opened, place = open_source(source, fs, join=options.join), Place.parse(sink)
    folder = absolute(job_dir) if job_dir is not None else place.beside(".job")
    upgrader = _upgrader(up)
    plan = make_plan(opened, place, folder, upgrader, options, fs, timed=timed)
    if not (folder / LEDGER).exists():
        open_sink(place, plan.layout, "", fs).refuse_existing()
    return Job(plan, source=opened, up=upgrader, throttle=options.throttle, fs=fs)


def _flagged(job: Session) -> Iterator[int]:
    if not job.ledger.state.flagged:
        return
    found = [record for record in job.ledger.records() if len(record.flagged)]
    for record in sorted(found, key=lambda record: record.shard):
        yield from (job.plan.layout.shard(record.shard).start + record.flagged).tolist()


def _upgrader(up: Any) -> Upgrader:
    """An upgrader for this job alone, without the scale check of its first rows: the plan checks the whole source."""
    from fct_fast.upgrader import Upgrader

    # What a backfill writes stays, so it is written in full precision where nobody chose another.
    own: Upgrader = copy.copy(up) if isinstance(up, Upgrader) else Upgrader(up, device="cpu", precision="fp32")
    own = own.for_jobs()
    own.scale_check = "off"
    return own
