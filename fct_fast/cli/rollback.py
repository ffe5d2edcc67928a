"""`fct-fast rollback`: undo a cutover."""

from __future__ import annotations

from typing import Annotated

import typer

from fct_fast.cli.cutover import show_pointer
from fct_fast.cli.job import JobPlace
from fct_fast.cli.options import Json
from fct_fast.cli.output import ask

__all__ = ["run"]


def run(
    job: JobPlace,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask (scripts are never asked).")] = False,
    as_json: Json = False,
) -> None:
    """Make the gallery live again that was live before the cutover of this job."""
    from fct_fast.gallery import Job

    opened = Job.open(job)
    ask(f"Take {opened.plan.sink} out of service and go back to the gallery before it?", yes=yes)
    show_pointer(opened.rollback(), as_json=as_json)
