"""What a report shows of a job beyond its status: how fast it went, and some rows as they are now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import StoreError
from fct_fast.gallery.job.session import Session
from fct_fast.gallery.stores.protocol import Source, spread

__all__ = ["History", "SampleRow", "history_of", "samples_of"]

PAUSE = 10  # a gap of so many median gaps between two commits is a pause, not work
SHOWN_COLUMNS = 4  # payload columns of a sample row


@dataclass(frozen=True)
class History:
    """Commits in their order: rows [n] of each, and the seconds [n] of work until then, pauses left out.

    started, ended: first and last commit, in seconds since 1970. pauses: how often the job stood still for long."""

    rows: npt.NDArray[np.int64]
    seconds: npt.NDArray[np.float64]
    started: float
    ended: float
    pauses: int

    @property
    def rows_per_second(self) -> float:
        """Over all commits but the first, whose time is not known; 0 where there is no second one."""
        return float(self.rows[1:].sum() / self.seconds[-1]) if len(self.rows) > 1 and self.seconds[-1] > 0 else 0.0


@dataclass(frozen=True)
class SampleRow:
    """A row as it is stored now. error: relative to the transform in float64, None for a zero row."""

    position: int
    id: str
    payload: dict[str, str]
    old_norm: float
    new_norm: float
    new_head: tuple[float, ...]
    error: float | None


def history_of(job: Session) -> History | None:
    """None before the first commit."""
    records = list(job.ledger.records())
    if not records:
        return None
    times = np.array([record.time for record in records])
    rows = np.array([job.plan.layout.shard(record.shard).rows for record in records], np.int64)
    gaps = np.maximum(np.diff(times), 0)
    limit = PAUSE * float(np.median(gaps)) if len(gaps) else 0.0
    worked = np.where(gaps > limit, np.median(gaps) if len(gaps) else 0.0, gaps)
    seconds = np.concatenate([[0.0], np.cumsum(worked)])
    return History(rows, seconds, float(times[0]), float(times[-1]), int((gaps > limit).sum()))


def samples_of(job: Session, source: Source, count: int) -> list[SampleRow]:
    """The first rows of up to `count` committed shards, evenly spread. Raises StoreError where they cannot be read."""
    plan, spec = job.plan, job.bundle().spec
    done, found = sorted(job.ledger.done), []
    if not done:
        return []
    for index in (done[i] for i in spread(len(done), count).tolist()):
        shard = plan.layout.shard(index)
        loaded, rows = job.sink.load(shard), source.read(shard)
        if len(rows.old) != shard.rows:
            raise StoreError(f"{plan.source['old']} no longer has the rows that were upgraded; restore it")
        side = None if rows.side is None else rows.side[:1]
        new = loaded.new[0].astype(np.float64)
        expected = spec.apply_float64(rows.old[:1], side)[0, : plan.new_dim]
        error = float(np.linalg.norm(new - expected) / np.linalg.norm(expected)) if new.any() else None
        found.append(
            SampleRow(
                position=shard.start,
                id=str(shard.start if loaded.ids is None else loaded.ids[0]),
                payload=_shown(loaded.payload),
                old_norm=float(np.linalg.norm(rows.old[0].astype(np.float64))),
                new_norm=float(np.linalg.norm(new)),
                new_head=tuple(new[:4].tolist()),
                error=error,
            )
        )
    return found


def _shown(payload: Any) -> dict[str, str]:
    if payload is None:
        return {}
    names = payload.column_names[:SHOWN_COLUMNS]
    return {name: str(payload.column(name)[0].as_py())[:40] for name in names}
