"""`fct-fast plan`: what a backfill would do; nothing is written."""

from __future__ import annotations

from fct_fast.cli.job import (
    DropPayload,
    Ids,
    JobDir,
    Join,
    MaxMemory,
    Nonfinite,
    OutDtype,
    ScaleCheck,
    ShardRows,
    Side,
    SinkPlace,
    SourcePlace,
    plan_job,
    show_plan,
)
from fct_fast.cli.options import Bundle, Device, Json, Limit, Precision, Threads

__all__ = ["run"]


def run(
    source: SourcePlace,
    sink: SinkPlace,
    bundle: Bundle,
    side: Side = None,
    ids: Ids = None,
    join: Join = "row",
    drop_payload: DropPayload = False,
    job_dir: JobDir = None,
    shard_rows: ShardRows = None,
    out_dtype: OutDtype = "float32",
    precision: Precision = "fp32",
    device: Device = "auto",
    nonfinite: Nonfinite = "raise",
    scale_check: ScaleCheck = "raise",
    limit: Limit = None,
    max_memory: MaxMemory = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Check a backfill and say what it would do: rows, bytes, shards, time. Writes nothing."""
    job = plan_job(
        source,
        sink,
        bundle,
        side=side,
        ids=ids,
        join=join,
        drop_payload=drop_payload,
        threads=threads,
        precision=precision,
        device=device,
        shard_rows=shard_rows,
        job_dir=job_dir,
        out_dtype=out_dtype,
        nonfinite=nonfinite,
        scale_check=scale_check,
        limit=limit,
        max_memory=max_memory,
    )
    show_plan(job, as_json=as_json)
