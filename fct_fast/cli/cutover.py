"""`fct-fast cutover`: make the upgraded gallery the live one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fct_fast.cli.job import JobPlace
from fct_fast.cli.options import Json
from fct_fast.cli.output import ask, print_json, print_line

__all__ = ["run", "show_pointer"]


def run(
    job: JobPlace,
    live: Annotated[
        Path | None,
        typer.Option(help="The pointer file that the serving side reads; by default live.json beside the gallery."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask (scripts are never asked).")] = False,
    as_json: Json = False,
) -> None:
    """Make a verified gallery the live one, in one step that `fct-fast rollback` undoes."""
    from fct_fast.gallery import Job

    opened = Job.open(job)
    ask(f"Make {opened.plan.sink} the live gallery?", yes=yes)
    show_pointer(opened.cutover(live), as_json=as_json)


def show_pointer(pointer: dict[str, Any], *, as_json: bool) -> None:
    """Print which gallery is live now, and which model embeds its queries."""
    if as_json:
        print_json(pointer)
        return
    space = pointer["space"]
    print_line(f"live: {pointer['gallery']}")
    name = f"the model {space['model_id']!r}" if space["model_id"] else "the model of that gallery"
    print_line(f"queries must now be embedded by {name} ({space['dim']} values, metric {space['metric']})")
