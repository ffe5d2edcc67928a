"""Running a job: start or resume, every shard read, upgraded, written and committed, then published."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fct_fast.bundle import write_bundle
from fct_fast.errors import CorruptError, LedgerMismatch, NonFiniteError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.job.ledger import Ledger, Record
from fct_fast.gallery.job.pipeline import overlapped
from fct_fast.gallery.job.plan import Plan, differences, mismatch
from fct_fast.gallery.job.session import BUNDLE, LEDGER, LOCK, Session, locked
from fct_fast.gallery.stores import open_sink
from fct_fast.gallery.stores.protocol import Array, Rows, Shard, Source, spread
from fct_fast.space import SpaceFingerprint

if TYPE_CHECKING:
    from fct_fast.upgrader import Upgrader

__all__ = ["Progress", "Report", "run_job"]

MEASURED_ROWS = 4096  # of the new gallery, for its space fingerprint
HEADROOM = 16 << 20  # bytes for the ledger and the bundle, beside the rows


@dataclass(frozen=True)
class Progress:
    """Where a running job is. rows, shards: committed, also by earlier runs; done: rows of this run, in `seconds`."""

    rows: int
    total_rows: int
    shards: int
    total_shards: int
    done: int
    seconds: float


@dataclass(frozen=True)
class Report:
    """What a run did. rows, flagged: of the whole gallery; resumed: rows that earlier runs had committed."""

    sink: str
    job_dir: str
    rows: int
    flagged: int
    resumed: int
    shards: int
    bytes_out: int
    seconds: float
    rows_per_second: float
    new_model: str
    level: str
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_job(
    plan: Plan,
    source: Source,
    up: Upgrader,
    fs: FileSystem,
    *,
    repair: bool = False,
    throttle: float | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Start or resume the job of `plan`, to its end.

    repair: also compute again what was committed and is now damaged or gone. throttle: at most so many rows a second.
    Raises JobLockedError, LedgerMismatch, StoreError, CorruptError, NonFiniteError; what was committed before stays in
    each case.
    """
    job_dir, start = Path(plan.job_dir), time.perf_counter()
    if not (job_dir / LEDGER).exists():
        _check_new(plan, job_dir, fs)
        fs.make_folder(job_dir)
    with locked(job_dir, fs):
        if not (job_dir / LEDGER).exists():
            _create(plan, up, job_dir, fs)
        fs.flush_folder(job_dir)  # the ledger's name, where a start was killed before it was on disk
        job = Session.open(job_dir, fs)
        try:
            up = _resumable(job, plan, up)
            return _finish(_Run(job, source, up, throttle), job, start, repair, progress)
        finally:
            job.close()


def _finish(run: _Run, job: Session, start: float, repair: bool, progress: Callable[[Progress], None] | None) -> Report:
    plan, ledger = job.plan, job.ledger
    resumed, done = run.check(repair=repair), 0

    def tell(done: int) -> None:
        if progress:
            seconds = time.perf_counter() - start
            progress(Progress(resumed + done, plan.rows, ledger.state.shards, plan.shards, done, seconds))

    if not ledger.state.published:
        done = run.commit_all(tell)
        run.publish()
    seconds = time.perf_counter() - start
    return Report(
        sink=plan.sink,
        job_dir=str(job.job_dir),
        rows=plan.rows,
        flagged=ledger.state.flagged,
        resumed=resumed,
        shards=plan.shards,
        bytes_out=plan.bytes_out,
        seconds=seconds,
        rows_per_second=done / seconds,
        new_model=plan.new_space["model_id"],
        level=plan.level,
        warnings=plan.warnings,
    )


def _check_new(plan: Plan, job_dir: Path, fs: FileSystem) -> None:
    sink = open_sink(plan.sink, plan.layout, "", fs)
    sink.refuse_existing()
    free, needed = sink.free_bytes, plan.bytes_out + HEADROOM
    if free is not None and free < needed:
        raise StoreError(
            f"the gallery at {plan.sink} will need {needed:,} bytes and {free:,} are free; free some space or choose "
            f"another sink"
        )
    if job_dir.is_dir():
        known = (LOCK, BUNDLE, f".{BUNDLE}.", LEDGER)  # what a start that was killed leaves behind
        other = sorted(path.name for path in job_dir.iterdir() if not path.name.startswith(known))
        if other:
            raise StoreError(
                f"{job_dir} is no job directory: it holds {other[0]!r:.80}; choose an empty or a new folder"
            )


def _create(plan: Plan, up: Upgrader, job_dir: Path, fs: FileSystem) -> None:
    for path in job_dir.iterdir():
        if path.name.startswith(f".{BUNDLE}."):  # of a start that was killed
            fs.remove(path)
    bundle = write_bundle(job_dir / BUNDLE, spec=up.spec, spaces=up.spaces)
    recorded = {"plan": plan.to_json(), "token": secrets.token_hex(4), "bundle": bundle.digest}
    Ledger.create(job_dir / LEDGER, recorded, fs).close()


def _resumable(job: Session, plan: Plan, up: Upgrader) -> Upgrader:
    """The upgrader to go on with: at the level that the job was begun with. Raises LedgerMismatch for another job."""
    differing = differences(job.plan.fields, plan.fields)
    if set(differing) == {"level"} and job.plan.device == "cpu":
        up = up.at_level(job.plan.level)
    elif differing:
        raise mismatch(str(job.job_dir), differing)
    return up


class _Run:
    """One run of a job: knows which shards were committed before it."""

    def __init__(self, job: Session, source: Source, up: Upgrader, throttle: float | None) -> None:
        self._job, self._source, self._up, self._throttle = job, source, up, throttle
        self._plan, self._ledger, self._sink = job.plan, job.ledger, job.sink
        self._layout = job.plan.layout
        self._inherited = sorted(job.ledger.done)
        self._sample = _Sample(spread(job.plan.rows, MEASURED_ROWS))

    def check(self, *, repair: bool) -> int:
        """Look at what earlier runs committed: sizes, and the bytes of the last shard; with `repair` all bytes, and
        compute again what is wrong. Returns the rows of these shards."""
        self._require_unchanged()
        if self._sink.published and len(self._inherited) < self._layout.shards:
            self._sink.refuse_existing()  # nothing of this job can be there yet
        self._sink.begin()
        if repair and (self._ledger.state.published or not self._sink.published):
            for index in self._inherited:
                if self._damage(index):
                    self._write_again(index)
        fault = self._sink.fault(self._inherited)
        if fault is None and self._inherited:
            fault = self._damage(self._inherited[-1])
        if fault is not None:
            raise _damaged(fault)
        return sum(self._layout.shard(index).rows for index in self._inherited)

    def commit_all(self, progress: Callable[[int], None]) -> int:
        """Upgrade and commit what is not done yet; returns, and tells `progress`, the rows that this run committed."""
        inherited, done, start = set(self._inherited), 0, time.monotonic()
        todo = (self._layout.shard(index) for index in range(self._layout.shards) if index not in inherited)
        with contextlib.closing(overlapped(todo, self._source.read, self._upgrade, self._commit)) as committed:
            for shard in committed:
                done += shard.rows
                progress(done)
                if self._throttle is not None and done < self._plan.rows:
                    time.sleep(max(0.0, start + done / self._throttle - time.monotonic()))
        return done

    def publish(self) -> None:
        """Show the gallery at its final place, once nothing speaks against it."""
        for index in self._inherited:  # what this run wrote is known; the rest was in other hands since
            damage = self._damage(index)
            if damage:
                raise _damaged(damage)
        self._require_unchanged()
        self._sink.publish(self._measured())
        self._ledger.note(published=True)

    def _require_unchanged(self) -> None:
        if self._source.identity() != self._plan.fields["source"]:
            raise LedgerMismatch(
                f"the source {self._plan.source['old']} changed since the job was planned, so the upgraded gallery "
                f"would mix two states of it; freeze the source and start a new job with another sink"
            )

    def _upgrade(self, shard: Shard, rows: Rows) -> tuple[Array, Rows, Array]:
        """New rows [n, new_dim], what travels along with them, and the numbers of the rows that became zero rows."""
        new, bad = self._up(rows.old, rows.side, out_dtype=self._plan.out_dtype, nonfinite="flag")
        if bad.any() and self._plan.nonfinite == "raise":
            self._refuse_bad(shard, rows, np.flatnonzero(bad))
        return new, rows, np.flatnonzero(bad)

    def _refuse_bad(self, shard: Shard, rows: Rows, bad: Array) -> None:
        """Raise for the first row that is NaN, Inf or overflows; a zero norm alone is no error."""

        def error_of(chosen: Array) -> NonFiniteError | None:
            try:
                side = None if rows.side is None else rows.side[chosen]
                self._up(rows.old[chosen], side, out_dtype=self._plan.out_dtype, nonfinite="raise")
            except NonFiniteError as error:
                return error
            return None

        if error_of(bad) is None:
            return
        row, error = next((row, error) for row in bad.tolist() if (error := error_of(np.array([row]))))
        places = " and ".join(self._plan.source[name] for name in ("old", "side") if name in self._plan.source)
        raise NonFiniteError(
            f"row {shard.start + row} of {places} holds NaN or Inf, or overflows {self._plan.out_dtype} when it is "
            f"upgraded; clean it, or use nonfinite='flag' to write such rows as zero rows and list them"
        ) from error

    def _commit(self, shard: Shard, made: tuple[Array, Rows, Array]) -> None:
        digest = self._write(shard, made)
        self._sample.take(shard, made[0])
        self._ledger.commit(Record(shard.index, digest, made[2]))

    def _write(self, shard: Shard, made: tuple[Array, Rows, Array]) -> bytes:
        new, rows, _ = made
        return self._sink.write(shard, new, rows.ids, rows.payload if self._plan.payload else None)

    def _damage(self, index: int) -> str | None:
        """A sentence when a committed shard is not on disk as it was committed."""
        shard = self._layout.shard(index)
        try:
            loaded = self._sink.load(shard)
        except StoreError as error:
            return str(error)
        if loaded.digest != self._ledger.record(index).digest:
            return f"{self._sink.where(shard)} does not hold the bytes that were committed"
        self._sample.take(shard, loaded.new)
        return None

    def _write_again(self, index: int) -> None:
        shard = self._layout.shard(index)
        if self._write(shard, self._upgrade(shard, self._source.read(shard))) != self._ledger.record(index).digest:
            raise CorruptError(
                f"{self._sink.where(shard)} was computed again and differs from what was committed: source or machine "
                f"are not what they were; start a new job with another sink"
            )

    def _measured(self) -> SpaceFingerprint | None:
        """The fingerprint of what was written; None where every row is a zero row."""
        rows = self._sample.rows()
        rows = rows[rows.any(axis=1)]
        if not len(rows):
            return None
        return SpaceFingerprint.measure(
            rows, model_id=self._plan.new_space["model_id"], metric=self._plan.new_space["metric"]
        )


class _Sample:
    """The rows at some positions of the new gallery, picked up as its shards pass by."""

    def __init__(self, positions: npt.NDArray[np.int64]) -> None:
        self._positions, self._rows = positions, dict[int, Array]()

    def take(self, shard: Shard, new: Array) -> None:
        low, high = np.searchsorted(self._positions, (shard.start, shard.stop))
        self._rows[shard.index] = new[self._positions[low:high] - shard.start]

    def rows(self) -> Array:
        return np.concatenate([self._rows[index] for index in sorted(self._rows)])


def _damaged(fault: str) -> CorruptError:
    return CorruptError(f"{fault}; run the job again with repair=True (--repair) to compute the damaged shards anew")
