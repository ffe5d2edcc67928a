"""What plan and backfill share: their options, and how a plan reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fct_fast.cli.output import print_facts, print_json, print_line
from fct_fast.report.text import amount, size, span

if TYPE_CHECKING:
    from fct_fast.gallery import Job, Plan

__all__ = [
    "DropPayload",
    "Ids",
    "JobDir",
    "JobPlace",
    "Join",
    "MaxMemory",
    "Nonfinite",
    "OutDtype",
    "ScaleCheck",
    "ShardRows",
    "Side",
    "SinkPlace",
    "SourcePlace",
    "Throttle",
    "plan_job",
    "show_plan",
]

SourcePlace = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Old embeddings: a file, a folder or a pattern of files, or a URI; GALLERY#column names a column.",
        show_default=False,
    ),
]
SinkPlace = Annotated[
    str,
    typer.Argument(
        metavar="SINK", help="Where the new gallery goes; its name says what is written.", show_default=False
    ),
]
JobPlace = Annotated[
    str, typer.Argument(metavar="JOB_OR_SINK", help="The job directory, or the gallery it writes.", show_default=False)
]
Side = Annotated[str | None, typer.Option(metavar="PLACE", help="Side-information: a gallery, or '#column' of SOURCE.")]
Ids = Annotated[
    str | None,
    typer.Option(metavar="PLACE", help="Ids of the rows: '#column' of SOURCE, or x.ids.npy; found by itself mostly."),
]
Join = Annotated[
    Literal["row", "id"], typer.Option(help="How a gallery of side-information is joined: row by row, or by ids.")
]
DropPayload = Annotated[
    bool, typer.Option("--drop-payload", help="Leave the other columns behind, where SINK cannot keep them.")
]
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


def _bytes(text: str) -> int:
    """ "2G" -> 2147483648; the parser of an option. Raises typer.BadParameter."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)(?:i?b)?", text.strip().lower())
    if not found or float(found[1]) == 0:
        raise typer.BadParameter(f"{text!r} is no amount of memory, like 800M or 2G")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " "))


MaxMemory = Annotated[
    int | None,
    typer.Option(parser=_bytes, metavar="SIZE", help="Memory that the job may take, like 800M or 2G."),
]
Throttle = Annotated[
    float | None, typer.Option(min=0.001, metavar="ROWS", help="At most so many rows a second, to spare a busy store.")
]


def plan_job(
    source: str,
    sink: str,
    bundle: Path,
    *,
    side: str | None,
    ids: str | None,
    threads: int | None,
    precision: str,
    device: str,
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
        Upgrader(bundle, device=device, precision=precision, threads=threads),
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
            ("source", ", ".join(f"{name}: {place}" for name, place in plan.source.items()) + _joined(plan)),
            ("sink", plan.sink),
            ("job directory", plan.job_dir),
            ("rows", f"{amount(plan.rows)}, of {plan.old_dim} values{side}"),
            ("payload", ", ".join(plan.columns) or "none"),
            ("upgraded to", f"{plan.new_dim} values of {plan.out_dtype}{f', the space of {space!r}' if space else ''}"),
            ("reads, writes", f"{size(plan.bytes_in)}, {size(plan.bytes_out)}"),
            ("shards", f"{amount(plan.shards)} of {amount(plan.shard_rows)} rows"),
            ("kernel", f"{plan.precision} on {plan.device}, level {plan.level}; about {span(plan.seconds)}"),
            ("index", f"built at the end, about {span(plan.build_seconds)}" if plan.build_seconds else "none to build"),
            ("memory", f"at most about {size(plan.memory_bytes)}"),
            ("cutover", "by the store itself" if plan.store_cutover else "by a pointer file"),
        ]
    )
    for note in plan.notes:
        print_line(note)
    if plan.frozen_source:
        print_line("Nothing may change the source while the job runs: its store cannot tell of changes.")
    if status.phase != "planned":
        print_line(f"The job was begun before: {status.phase}, {amount(status.rows)} rows are committed.")


def _joined(plan: Plan) -> str:
    return f" (joined by {plan.join})" if "side" in plan.source else ""
