"""Verification: what was written is what h makes of the source, and nothing is missing.

Every byte is read again and held against the ledger; ids and payload against the source; norms; a sample of rows of
each shard is computed anew in float64 by the transform's plain definition; and where true new embeddings of some rows
are given, their neighbours are compared with those of the upgraded rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, ShapeError, StoreError, VerificationError
from fct_fast.evaluation import overlap
from fct_fast.gallery.job.ledger import Record
from fct_fast.gallery.job.plan import Plan
from fct_fast.gallery.job.session import Session
from fct_fast.gallery.stores.payload import first_difference
from fct_fast.gallery.stores.protocol import Array, Loaded, Rows, Shard, Source

__all__ = ["Check", "Verification", "verify_job"]

# Relative error to float64, norm-wise over the sample; a single row may have five times that.
TOLERANCE = {"fp32": 2e-6, "bf16": 1e-2, "fp16": 1.5e-3, "int8": 3e-2}
ROW_FACTOR = 5
# What rounding to the stored dtype adds to the error and to |norm - 1|.
ROUNDING = {"float32": 0.0, "float16": 2.0**-11}
NORM_TOLERANCE = {"float32": 2e-7, "float16": 1e-3}
ORACLE_ROWS = 256  # at once, since float64 takes twice the memory
SHOWN = 3

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed, and what was found."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """The outcome of `Job.verify`. state: what the sink was when it was looked at; cutover asks for the same."""

    passed: bool
    checks: tuple[Check, ...]
    overlap: float | None
    seconds: float
    time: str
    state: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Verification:
        return cls(**document | {"checks": tuple(Check(**check) for check in document["checks"])})


def verify_job(
    job: Session,
    source: Source,
    *,
    sample_rows: int,
    reference: tuple[npt.ArrayLike, npt.ArrayLike] | None,
    k: int,
    min_overlap: float | None,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check a published job and record the outcome in its ledger.

    reference: true new embeddings [m, new_dim] and the ids [m] of the rows they belong to. Raises VerificationError
    where the job is not complete or a check fails (the outcome is recorded all the same), ConfigError or ShapeError for
    a reference that cannot be used."""
    start = time.perf_counter()
    if sample_rows < 1:
        raise ConfigError(f"sample_rows is a whole number from 1 on, got {sample_rows}")
    if reference is not None:
        _check_reference(reference, k, job.plan.new_dim)
    if not job.ledger.state.published:
        raise VerificationError(
            f"the job in {job.job_dir} is not complete ({job.ledger.state.shards} of {job.plan.shards} shards are "
            f"committed); run it to the end first"
        )
    state = job.sink.state()
    scan = _Scan(job, source, sample_rows, reference, progress)
    checks = [*scan.checks(), _check_space(job), scan.sample.check()]
    share = None
    if reference is not None:
        share, check = _check_overlap(scan, reference, k, min_overlap, job.plan)
        checks.append(check)
    if job.sink.state() != state:
        checks.append(Check("unchanged", False, f"{job.plan.sink} was changed while it was verified"))
    result = Verification(
        passed=all(check.passed for check in checks),
        checks=tuple(checks),
        overlap=share,
        seconds=time.perf_counter() - start,
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        state=state,
    )
    job.ledger.note(verification=result.to_json())
    if not result.passed:
        failed = "; ".join(f"{check.name}: {check.detail}" for check in checks if not check.passed)
        raise VerificationError(
            f"the upgraded gallery {job.plan.sink} failed its verification ({failed}); do not serve it"
        )
    return result


class _Scan:
    """One pass over the whole sink and its source: bytes, ids, payload, zero rows and norms; and, on the way, a sample
    of each shard against float64 and the rows of the reference."""

    def __init__(
        self,
        job: Session,
        source: Source,
        sample_rows: int,
        reference: tuple[npt.ArrayLike, npt.ArrayLike] | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._job, self._source = job, source
        self._faults = {name: list[str]() for name in ("checksums", "ids", "payload", "norms", "flagged rows")}
        self._wanted = None if reference is None else np.asarray(reference[1])
        self.found: list[tuple[Array, Array]] = []
        self.sample = _Sample(job, sample_rows)
        self._rows, self._flagged, self._worst = 0, 0, 0.0
        for shard in map(job.plan.layout.shard, range(job.plan.shards)):
            if shard.index in job.ledger.done:
                self._look(shard, job.ledger.record(shard.index))
            if progress:
                progress(shard.stop, job.plan.rows)

    def checks(self) -> list[Check]:
        plan, state = self._job.plan, self._job.ledger.state
        details = {
            "checksums": f"{state.shards} shards hold the bytes that were committed",
            "ids": f"equal to those of {plan.source['old']}" if plan.ids_dtype else "row positions",
            "payload": f"{len(plan.columns)} columns, equal to those of {plan.source['old']}",
            "norms": f"largest |norm - 1| is {self._worst:.1e}" if plan.normalize else "not normalised, none promised",
            "flagged rows": f"{self._flagged} zero rows, as recorded",
        }
        if not plan.columns:
            del self._faults["payload"]
        complete = self._rows == plan.rows == min(self._source.rows, plan.fields["limit"] or plan.rows)
        counts = Check("counts", complete, f"{self._rows:,} of {plan.rows:,} rows in {state.shards} shards")
        return [counts] + [
            Check(name, not faults, ", ".join(faults[:SHOWN]) + f" ({len(faults)} in all)" if faults else details[name])
            for name, faults in self._faults.items()
        ]

    def _look(self, shard: Shard, record: Record) -> None:
        sink, plan = self._job.sink, self._job.plan
        try:
            loaded = sink.load(shard)
        except StoreError as error:
            self._faults["checksums"].append(str(error))
            return
        self._rows += len(loaded.new)
        if loaded.digest != record.digest:
            self._faults["checksums"].append(f"{sink.where(shard)} differs from what was committed")
        try:
            rows = self._source.read(shard)
        except StoreError as error:
            self._faults["ids"].append(str(error))
            return
        self._compare(shard, loaded, rows)
        self.sample.take(shard, rows, loaded.new)
        zero = np.flatnonzero(~loaded.new.any(axis=1))
        self._flagged += len(zero)
        if not np.array_equal(zero, record.flagged):
            self._faults["flagged rows"].append(
                f"{sink.where(shard)} has {len(zero)} zero rows, {len(record.flagged)} were recorded"
            )
        if plan.normalize:
            off = np.abs(_norms(loaded.new) - 1)
            off[zero] = 0
            worst = float(off.max(initial=0))  # NaN where a norm is NaN, which the comparison below catches
            if not worst <= NORM_TOLERANCE[plan.out_dtype]:
                row = shard.start + int(np.argmax(~(off <= NORM_TOLERANCE[plan.out_dtype])))
                self._faults["norms"].append(f"row {row} in {sink.where(shard)} is no unit row")
            self._worst = max(self._worst, worst)
        if self._wanted is not None:
            ids = np.arange(shard.start, shard.stop) if loaded.ids is None else loaded.ids
            chosen = np.flatnonzero(np.isin(ids, self._wanted))
            self.found.append((ids[chosen], loaded.new[chosen]))

    def _compare(self, shard: Shard, loaded: Loaded, rows: Rows) -> None:
        where = self._job.sink.where(shard)
        if loaded.ids is not None and (rows.ids is None or not np.array_equal(loaded.ids, rows.ids)):
            self._faults["ids"].append(f"{where} has other ids than the source")
        if self._job.plan.columns:
            differing = first_difference(rows.payload, loaded.payload)
            if differing is not None:
                self._faults["payload"].append(f"{where} has another {differing!r:.80} than the source")


class _Sample:
    """Some rows of every shard against the transform's definition in float64."""

    def __init__(self, job: Session, sample_rows: int) -> None:
        self._plan, self._spec = job.plan, job.bundle().spec
        self._rng = np.random.default_rng(int(job.plan.key[:16], 16))
        self._share = sample_rows / job.plan.rows
        self._rows, self._errors, self._lengths, self._worst = 0, 0.0, 0.0, (-1.0, 0)

    def take(self, shard: Shard, rows: Rows, new: Array) -> None:
        count = min(shard.rows, max(1, round(self._share * shard.rows)))
        chosen = np.sort(self._rng.choice(shard.rows, count, replace=False))
        for start in range(0, count, ORACLE_ROWS):
            part = chosen[start : start + ORACLE_ROWS]
            part = part[new[part].any(axis=1)]  # zero rows are held against the ledger by the scan
            side = None if rows.side is None else rows.side[part]
            expected = self._spec.apply_float64(rows.old[part], side)[:, : self._plan.new_dim]
            errors = np.linalg.norm(new[part].astype(np.float64) - expected, axis=1)
            lengths = np.linalg.norm(expected, axis=1)
            self._errors += float(errors @ errors)
            self._lengths += float(lengths @ lengths)
            relative = np.nan_to_num(errors / np.maximum(lengths, np.finfo(np.float64).tiny), nan=np.inf)
            if len(part) and relative.max() > self._worst[0]:
                self._worst = float(relative.max()), shard.start + int(part[np.argmax(relative)])
        self._rows += count

    def check(self) -> Check:
        bound, rounding = TOLERANCE[self._plan.precision], ROUNDING[self._plan.out_dtype]
        total = float(np.sqrt(self._errors / max(self._lengths, np.finfo(np.float64).tiny)))
        worst, row = max(self._worst[0], 0.0), self._worst[1]
        passed = self._rows > 0 and total <= bound + rounding and worst <= ROW_FACTOR * bound + rounding
        detail = f"relative error {total:.1e}, of a single row at most {worst:.1e} (row {row})"
        return Check(f"{self._rows:,} sampled rows against float64", passed, detail)


def _norms(rows: Array) -> F64:
    norms = np.empty(len(rows))
    for start in range(0, len(rows), 4096):
        chunk = rows[start : start + 4096].astype(np.float64)
        norms[start : start + 4096] = np.sqrt(np.einsum("ij,ij->i", chunk, chunk))
    return norms


def _check_space(job: Session) -> Check:
    try:
        space = job.sink.space
    except StoreError as error:
        return Check("space", False, str(error))
    if space is None:
        empty = job.ledger.state.flagged == job.plan.rows
        return Check(
            "space", empty, "all rows are zero rows" if empty else f"{job.plan.sink} carries no space fingerprint"
        )
    right = (space.dim, space.model_id) == (job.plan.new_dim, job.plan.new_space["model_id"])
    return Check("space", right, f"stamped as {space.model_id!r}, {space.dim} values a row")


def _check_overlap(
    scan: _Scan, reference: tuple[npt.ArrayLike, npt.ArrayLike], k: int, min_overlap: float | None, plan: Plan
) -> tuple[float, Check]:
    """Neighbours among the reference rows, in the true new space and in the upgraded one."""
    true, wanted = np.asarray(reference[0]), np.asarray(reference[1])
    ids = np.concatenate([ids for ids, _ in scan.found])
    order = np.argsort(ids, kind="stable")
    place = order[np.minimum(np.searchsorted(ids[order], wanted), len(ids) - 1)] if len(ids) else np.zeros(0, np.int64)
    missing = wanted[ids[place] != wanted] if len(ids) else wanted
    if len(missing):
        raise ConfigError(f"the reference names the id {missing[0]!r:.80}, which {plan.sink} does not have")
    new = np.concatenate([new for _, new in scan.found])[place]
    share = overlap(new, true, k, metric=plan.new_space["metric"]).mean
    passed = min_overlap is None or share >= min_overlap
    bar = "" if min_overlap is None else f", at least {min_overlap:.3f} asked for"
    return share, Check(f"overlap@{k}", passed, f"{share:.3f} on {len(wanted):,} rows with true new embeddings{bar}")


def _check_reference(reference: tuple[npt.ArrayLike, npt.ArrayLike], k: int, new_dim: int) -> None:
    """Raises ConfigError or ShapeError where a reference cannot be used; before anything is read."""
    true, ids = np.asarray(reference[0]), np.asarray(reference[1])
    if true.ndim != 2 or true.shape[1] != new_dim or ids.shape != (len(true),):
        raise ShapeError(
            f"a reference is rows [m, {new_dim}] of true new embeddings and their ids [m], got {list(true.shape)} and "
            f"{list(ids.shape)}"
        )
    if not 1 <= k < len(true):
        raise ConfigError(f"overlap@{k} needs more than {k} reference rows, got {len(true)}; give more rows or lower k")
