"""What plan and backfill share: their options, and how a plan reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fct_fast.cli.output import print_facts, print_json, print_line
from fct_fast.report.text import amount, size, span

if TYPE_CHECKING:
    from fct_fast.gallery import Job

__all__ = [
    "Ids",
    "JobDir",
    "JobPlace",
    "Nonfinite",
    "OutDtype",
    "ScaleCheck",
    "ShardRows",
    "Side",
    "SinkPlace",
    "SourcePlace",
    "plan_job",
    "show_plan",
]

SourcePlace = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE", help="Old embeddings: a .npy file, or a folder of .npy shards.", show_default=False
    ),
]
SinkPlace = Annotated[
    Path,
    typer.Argument(
        metavar="SINK", help="Where the new gallery goes: x.npy for one file, else a folder.", show_default=False
    ),
]
JobPlace = Annotated[
    Path, typer.Argument(metavar="JOB_OR_SINK", help="The job directory, or the gallery it writes.", show_default=False)
]
Side = Annotated[Path | None, typer.Option(help="Side-information, joined to SOURCE by row.")]
Ids = Annotated[Path | None, typer.Option(help="Ids of the rows; by default those of SOURCE (x.ids.npy).")]
ShardRows = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Rows committed as one; by default about 64 MiB of input and output."),
]
JobDir = Annotated[Path | None, typer.Option(help="Where the ledger is kept; by default SINK.job.")]
OutDtype = Annotated[Literal["float32", "float16"], typer.Option(help="What the new rows are stored as.")]
Nonfinite = Annotated[
    Literal["raise", "flag"],
    typer.Option(help="A row with NaN or Inf ends the job, or becomes a zero row that is counted and listed."),
]
ScaleCheck = Annotated[
    Literal["raise", "warn", "off"],
    typer.Option(help="What to do where SOURCE has another scale than what h was fitted on."),
]


def plan_job(
    source: Path,
    sink: Path,
    bundle: Path,
    *,
    side: Path | None,
    ids: Path | None,
    threads: int | None,
    precision: str,
    shard_rows: int | None,
    **options: Any,
) -> Job:
    """`plan_backfill` of what the command line says."""
    from fct_fast.gallery import plan_backfill
    from fct_fast.upgrader import Upgrader

    places = {"old": source, "side": side, "ids": ids}
    return plan_backfill(
        {name: place for name, place in places.items() if place is not None},
        sink,
        Upgrader(bundle, precision=precision, threads=threads),
        shard_rows=shard_rows or "auto",
        **options,
    )


def show_plan(job: Job, *, as_json: bool) -> None:
    plan, status = job.plan, job.status()
    if as_json:
        print_json({**plan.to_json(), "key": plan.key, "phase": status.phase, "rows_done": status.rows})
        return
    side = f" and side-information of {plan.side_dim}" if plan.side_dim else ""
    space = plan.new_space["model_id"]
    print_facts(
        [
            ("source", ", ".join(f"{name}: {place}" for name, place in plan.source.items())),
            ("sink", plan.sink),
            ("job directory", plan.job_dir),
            ("rows", f"{amount(plan.rows)}, of {plan.old_dim} values{side}"),
            ("upgraded to", f"{plan.new_dim} values of {plan.out_dtype}{f', the space of {space!r}' if space else ''}"),
            ("reads, writes", f"{size(plan.bytes_in)}, {size(plan.bytes_out)}"),
            ("shards", f"{amount(plan.shards)} of {amount(plan.shard_rows)} rows"),
            ("kernel", f"{plan.precision} on {plan.device}, level {plan.level}; about {span(plan.seconds)}"),
        ]
    )
    if plan.frozen_source:
        print_line("Nothing may change the source while the job runs: its store cannot tell of changes.")
    if status.phase != "planned":
        print_line(f"The job was begun before: {status.phase}, {amount(status.rows)} rows are committed.")
