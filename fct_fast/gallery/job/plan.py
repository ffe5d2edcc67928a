"""The plan of a backfill: everything that is known, and everything that is refused, before a byte is written."""

from __future__ import annotations

import base64
import hashlib
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from fct_fast.errors import ConfigError, LedgerMismatch, ShapeError, SpaceError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores import Join, Place, open_sink
from fct_fast.gallery.stores.protocol import Layout, Rows, Sink, Source
from fct_fast.space import SpaceFingerprint, canonical_json

if TYPE_CHECKING:
    from fct_fast.upgrader import Upgrader

__all__ = ["Nonfinite", "Options", "OutDtype", "Plan", "ScaleCheck", "differences", "make_plan", "mismatch"]

OutDtype = Literal["float32", "float16"]
Nonfinite = Literal["raise", "flag"]
ScaleCheck = Literal["raise", "warn", "off"]

FORMAT = 2
SHARD_BYTES = 64 << 20  # of a shard's input and output together, where shard_rows is "auto"
SHARDS_HELD = 6  # at once, in all steps of the pipeline and in the copies that stores make
BASE_BYTES = 256 << 20  # of the process itself: Python, numpy, pyarrow, packed weights, activations
SAMPLE_ROWS = 2048  # looked at by the scale check
TIMED_ROWS = 1024  # upgraded to estimate the time


@dataclass(frozen=True)
class Options:
    """The options of a backfill; see `plan_backfill`. Raises ConfigError for what makes no sense."""

    shard_rows: int | Literal["auto"]
    limit: int | None
    out_dtype: OutDtype
    nonfinite: Nonfinite
    scale_check: ScaleCheck
    join: Join = "row"
    drop_payload: bool = False
    max_memory: int | None = None
    throttle: float | None = None

    def __post_init__(self) -> None:
        for name, choices in (("out_dtype", OutDtype), ("nonfinite", Nonfinite), ("scale_check", ScaleCheck)):
            value = getattr(self, name)
            if value not in get_args(choices):
                raise ConfigError(f"{name} is one of {', '.join(get_args(choices))}, got {value!r:.80}")
        for name, word in (("shard_rows", "auto"), ("limit", None), ("max_memory", None)):
            value = getattr(self, name)
            if value != word and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ConfigError(f"{name} is {word or 'None'} or a whole number from 1 on, got {value!r:.80}")
        if self.throttle is not None and not self.throttle > 0:
            raise ConfigError(f"throttle is None or rows a second, above 0, got {self.throttle!r:.80}")


@dataclass(frozen=True)
class Plan:
    """What a job will do.

    source: places by "old", "side", "ids"; join: how side-information is joined. sink, job_dir: absolute places. rows,
    shards, shard_rows: how the gallery is cut. columns: names of the payload columns, which travel along; payload:
    their Arrow schema, in base64; form: see `Layout`. bytes_in, bytes_out: read and written; memory_bytes: an upper
    estimate. seconds: estimate for the kernel, from a timed sample (0 where it was not timed); build_seconds: for the
    index that is built at the end. level, precision, device: of the kernels that will run. frozen_source: the store
    cannot tell of changes, so nothing may change the source while the job runs. store_cutover: the store makes the new
    gallery live itself, elsewhere a pointer file does. old_space, new_space: {"model_id", "dim", "normalized",
    "metric"}, what the serving side must know to ask questions. warnings: what the scale check found and was told to
    let pass; notes: what the stores say. fields: all that decides the bytes that are written; `key` is their digest."""

    source: dict[str, str]
    join: Join
    sink: str
    job_dir: str
    rows: int
    old_dim: int
    side_dim: int
    new_dim: int
    ids_dtype: str | None
    columns: list[str]
    payload: str
    form: dict[str, Any]
    shards: int
    shard_rows: int
    out_dtype: OutDtype
    nonfinite: Nonfinite
    normalize: bool
    precision: str
    device: str
    level: str
    bytes_in: int
    bytes_out: int
    memory_bytes: int
    seconds: float
    build_seconds: float
    frozen_source: bool
    store_cutover: bool
    old_space: dict[str, Any]
    new_space: dict[str, Any]
    warnings: list[str]
    notes: list[str]
    fields: dict[str, Any]

    @property
    def key(self) -> str:
        return hashlib.sha256(canonical_json(self.fields)).hexdigest()

    @property
    def layout(self) -> Layout:
        ids = None if self.ids_dtype is None else np.dtype(self.ids_dtype)
        payload = base64.b64decode(self.payload)
        return Layout(self.rows, self.new_dim, np.dtype(self.out_dtype), ids, self.shard_rows, payload, self.form)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Plan:
        """The inverse of `to_json`. Raises TypeError where a field is missing or unknown."""
        return cls(**document)


def make_plan(
    source: Source,
    sink: Place,
    job_dir: Path,
    up: Upgrader,
    options: Options,
    fs: FileSystem,
    *,
    timed: bool,
) -> Plan:
    """Check source, sink and upgrader against each other, and lay out the job. Reads samples of the source only.

    timed: also estimate the time. Raises ConfigError where source and sink are one place or do not fit together,
    ShapeError for other widths than h's, SpaceError for rows of another space or scale."""
    for place in (sink, Place(str(job_dir))):
        if source.overlaps(place):
            raise ConfigError(
                f"{place} lies in the source, or holds it; the source is never changed, choose another place"
            )
    _check_dims(source, up)
    rows = source.rows if options.limit is None else min(options.limit, source.rows)
    sample = source.sample(SAMPLE_ROWS)
    found = list(_check_spaces(source, sample, up, options.scale_check))
    dtype, ids_dtype = np.dtype(options.out_dtype), source.ids_dtype
    payload = b"" if options.drop_payload else source.payload
    new_bytes = up.spec.new_dim * dtype.itemsize + (_payload_bytes(source, sample) if payload else 0)
    new_bytes += ids_dtype.itemsize if ids_dtype is not None else 0
    held = source.held_bytes
    shard_rows = _shard_rows(source.row_bytes + new_bytes, held, options)
    layout = Layout(rows, up.spec.new_dim, dtype, ids_dtype, shard_rows, payload, source.form)
    target = open_sink(sink, layout, "", fs)
    columns = _check_sink(source, target, payload)
    memory = (
        BASE_BYTES + held + target.held_bytes + SHARDS_HELD * min(rows, shard_rows) * (source.row_bytes + new_bytes)
    )
    if options.max_memory is not None and memory > options.max_memory:
        raise ConfigError(
            f"this job needs up to {memory:,} bytes of memory, {held + target.held_bytes:,} of them because a store "
            f"must hold that much at once, but max_memory is {options.max_memory:,}; raise it, or choose another store"
        )
    device_kind = up.device.partition(":")[0]  # any GPU of the same kernels may go on
    fields = {
        "format": FORMAT,
        "bundle": up.digest,
        "source": source.identity(),
        "join": options.join,
        "sink": target.place,
        "payload": hashlib.sha256(payload).hexdigest() if payload else "",
        "limit": options.limit,
        "shard_rows": shard_rows,
        "out_dtype": options.out_dtype,
        "nonfinite": options.nonfinite,
        "precision": up.precision,
        "device": device_kind,
        "level": up.level,
        "kernel_version": up.kernel_version,
    }
    return Plan(
        source=dict(source.places),
        join=options.join,
        sink=target.place,
        job_dir=str(job_dir),
        rows=rows,
        old_dim=up.spec.old_dim,
        side_dim=up.spec.side_dim,
        new_dim=up.spec.new_dim,
        ids_dtype=None if ids_dtype is None else ids_dtype.str,
        columns=columns,
        payload=base64.b64encode(payload).decode(),
        form=dict(source.form),
        shards=layout.shards,
        shard_rows=shard_rows,
        out_dtype=options.out_dtype,
        nonfinite=options.nonfinite,
        normalize=up.spec.normalize,
        precision=up.precision,
        device=device_kind,
        level=up.level,
        bytes_in=rows * source.row_bytes,
        bytes_out=rows * new_bytes,
        memory_bytes=memory,
        seconds=_timed(sample, up) * rows if timed else 0.0,
        build_seconds=target.build_seconds,
        frozen_source=not source.capabilities.snapshot,
        store_cutover=target.capabilities.cutover,
        old_space=_named(source.spaces.get("old") or up.spaces.get("old"), up.spec.old_dim, None),
        new_space=_named(up.spaces.get("new"), up.spec.new_dim, up.spec.normalize),
        warnings=found,
        notes=[*source.notes, *target.notes],
        fields=fields,
    )


def differences(recorded: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields of two jobs that differ, nested ones by a joined name."""
    flat = [dict(_flat("", fields)) for fields in (recorded, wanted)]
    names = sorted(flat[0].keys() | flat[1].keys())
    return {n: (flat[0].get(n), flat[1].get(n)) for n in names if flat[0].get(n) != flat[1].get(n)}


def mismatch(job_dir: str, differing: dict[str, tuple[Any, Any]]) -> LedgerMismatch:
    """The error for a job directory whose job differs from the one that is asked for."""
    shown = [f"{name} was {_brief(was)} and is {_brief(now)}" for name, (was, now) in list(differing.items())[:3]]
    more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
    return LedgerMismatch(
        f"{job_dir} belongs to another job: {', '.join(shown)}{more}; repeat that job's inputs and options to "
        f"resume it, "
        f"or choose another sink and job directory"
    )


def _payload_bytes(source: Source, sample: Rows) -> int:
    """Bytes of the payload of a row, from what a whole row takes."""
    side = 0 if sample.side is None else sample.side[:1].nbytes
    ids = source.ids_dtype.itemsize if source.ids_dtype is not None else 0
    return max(0, source.row_bytes - sample.old[:1].nbytes - side - ids)


def _shard_rows(row_bytes: int, held: int, options: Options) -> int:
    """Rows of a shard: what was asked for, or as many as 64 MiB, or the memory, allow."""
    if options.shard_rows != "auto":
        return options.shard_rows
    budget = SHARD_BYTES
    if options.max_memory is not None:
        budget = min(budget, (options.max_memory - BASE_BYTES - held) // SHARDS_HELD)
    return max(1, budget // row_bytes)


def _check_sink(source: Source, sink: Sink, payload: bytes) -> list[str]:
    """Whether the sink can keep what comes along with the vectors; returns the names of the payload columns."""
    if source.ids_dtype is not None and not sink.capabilities.ids:
        raise ConfigError(f"{sink.place} cannot keep the ids of {source.places['old']}; choose a sink that can")
    if not payload:
        return []
    import pyarrow as pa

    names = list(pa.ipc.read_schema(pa.py_buffer(payload)).names)
    if not sink.capabilities.payload:
        raise ConfigError(
            f"{sink.place} cannot keep the columns {', '.join(names)} of {source.places['old']}; choose a sink that "
            f"can, or leave them behind with drop_payload=True (--drop-payload)"
        )
    return names


def _named(space: SpaceFingerprint | None, dim: int, normalized: bool | None) -> dict[str, Any]:
    """The part of a fingerprint that names the space; without one, what is known all the same."""
    if normalized is None and space is not None:
        normalized = space.normalized
    model_id, metric = (space.model_id, space.metric) if space is not None else ("", "cosine")
    return {"model_id": model_id, "dim": dim, "normalized": normalized, "metric": metric}


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{prefix} {name}".strip(), inner)
    else:
        yield prefix, value


def _brief(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text


def _check_dims(source: Source, up: Upgrader) -> None:
    wanted = {"old": up.spec.old_dim} | ({"side": up.spec.side_dim} if up.spec.side_dim else {})
    if "side" in wanted and "side" not in source.dims:
        raise ShapeError(
            f"this transform needs side-information of {up.spec.side_dim} values a row; give the source as "
            f"{{'old': ..., 'side': ...}}"
        )
    if "side" in source.dims and "side" not in wanted:
        raise ShapeError(f"this transform takes no side-information; leave out {source.places['side']}")
    for name, dim in wanted.items():
        if source.dims[name] != dim:
            raise ShapeError(
                f"{source.places[name]} has rows of {source.dims[name]} values, but this transform reads {name} rows "
                f"of {dim}; check that bundle and gallery belong together"
            )


def _check_spaces(source: Source, sample: Rows, up: Upgrader, scale_check: ScaleCheck) -> Iterator[str]:
    """What the scale check lets pass with a warning; raises SpaceError for the rest."""
    for name, space in source.spaces.items():
        conflict = up.spaces[name].conflict(space) if name in up.spaces else None
        if conflict:
            raise SpaceError(
                f"{source.places[name]} is not of the space that this transform reads as {name}: {conflict}"
            )
    if scale_check == "off":
        return
    for name, rows in (("old", sample.old), ("side", sample.side)):
        if rows is None or name not in up.spaces:
            continue
        sentence = up.spaces[name].mismatch(rows, f"{name} ({source.places[name]})")
        if sentence and scale_check == "raise":
            raise SpaceError(sentence)
        if sentence:
            warnings.warn(sentence, stacklevel=4)
            yield sentence


def _timed(sample: Rows, up: Upgrader) -> float:
    """Seconds a row, from the second of two calls on a few rows."""
    old = sample.old[:TIMED_ROWS]
    side = None if sample.side is None else sample.side[:TIMED_ROWS]
    up(old, side, nonfinite="flag")
    start = time.perf_counter()
    up(old, side, nonfinite="flag")
    return (time.perf_counter() - start) / len(old)
