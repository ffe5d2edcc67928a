"""`fct-fast backfill`: upgrade a stored gallery; the same command again resumes what was stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fct_fast.cli.errors import INTERRUPTED, complain
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
    Throttle,
    plan_job,
    show_plan,
)
from fct_fast.cli.options import Bundle, Device, Json, Limit, Precision, Threads
from fct_fast.cli.output import print_facts, print_json
from fct_fast.cli.progress import Meter
from fct_fast.report.text import amount, size, span

if TYPE_CHECKING:
    from fct_fast.gallery import Job, Progress, Report

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
    throttle: Throttle = None,
    threads: Threads = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Also write anew what was committed and is now damaged or gone.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Verify the gallery when it is complete.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only plan, as `fct-fast plan` does.")] = False,
    as_json: Json = False,
) -> None:
    """Upgrade a whole gallery. Stopped in any way, the same command resumes it and gives the same bytes."""
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
        throttle=throttle,
    )
    if dry_run:
        show_plan(job, as_json=as_json)
        return
    report = _run(job, repair)
    document: dict[str, Any] = report.to_json()
    if not as_json:
        _show(report)
    if verify:
        from fct_fast.cli.verify import verify_and_show

        document["verification"] = verify_and_show(job, quiet=as_json).to_json()
    if as_json:
        print_json(document)


def _run(job: Job, repair: bool) -> Report:
    plan = job.plan
    try:
        with Meter("backfill", plan.rows, row_bytes=(plan.bytes_in + plan.bytes_out) // plan.rows) as meter:

            def tell(at: Progress) -> None:
                meter.update(at.rows, inherited=at.rows - at.done)
                if at.rows == at.total_rows and plan.build_seconds >= 1:
                    complain(f"all rows are written; building the index takes about {span(plan.build_seconds)}")

            return job.run(tell, repair=repair)
    except KeyboardInterrupt:
        done = job.status().rows
        complain(
            f"interrupted; {amount(done)} of {amount(plan.rows)} rows are committed in {plan.job_dir}, "
            f"run the same command again to go on"
        )
        raise typer.Exit(INTERRUPTED) from None


def _show(report: Report) -> None:
    fresh = report.rows - report.resumed
    facts: list[tuple[str, object]] = [("gallery", report.sink), ("rows", amount(report.rows))]
    if report.resumed:
        facts.append(("resumed", f"{amount(report.resumed)} rows were committed before"))
    if report.flagged:
        facts.append(("zero rows", f"{amount(report.flagged)}, listed by `fct-fast status`"))
    facts.append(("written", f"{size(report.bytes_out)} in {amount(report.shards)} shards"))
    if fresh:
        facts.append(("time", f"{span(report.seconds)}, {amount(report.rows_per_second)} rows/s, level {report.level}"))
    if report.new_model:
        facts.append(("space", f"{report.new_model!r}: embed queries with this model"))
    print_facts([*facts, ("next", f"fct-fast verify {report.sink}")])
