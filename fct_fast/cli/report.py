"""`fct-fast report`: one HTML page on a backfill, or on an experiment."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fct_fast.cli.job import JobPlace
from fct_fast.cli.options import Json, Overwrite
from fct_fast.cli.output import may_overwrite, print_json, print_line
from fct_fast.errors import FctError

__all__ = ["run"]

RESULTS = "results.json"  # of an experiment


def run(
    job: JobPlace,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page; by default report.html in the job directory.")
    ] = None,
    samples: Annotated[int, typer.Option(min=0, max=100, help="Rows to show.")] = 8,
    yes: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a page on a backfill (what was upgraded, how fast, what was checked, some rows), or on the folder that
    `fct-fast train` wrote. Changes nothing else."""
    if (Path(job) / RESULTS).is_file():
        _experiment(Path(job), out, yes=yes, as_json=as_json)
        return
    from fct_fast.fs import write_atomic
    from fct_fast.gallery import Job
    from fct_fast.report.job import job_page

    opened = Job.open(job)
    status, history, trouble = opened.status(), opened.history(), ""
    place = out if out is not None else Path(status.job_dir) / "report.html"
    if out is not None:
        may_overwrite(place, yes=yes)
    try:
        rows = [asdict(row) for row in opened.samples(samples)] if samples else []
    except FctError as error:  # the rest is worth a page
        rows, trouble = [], f"Rows cannot be shown: {error}"
    told = None if history is None else asdict(history) | {"rows_per_second": history.rows_per_second}
    write_atomic(place, job_page(opened.plan.to_json(), status.to_json(), told, rows, trouble).encode())
    if as_json:
        print_json({"report": place, "phase": status.phase, "rows": status.rows, "total_rows": status.total_rows})
    else:
        print_line(f"report: {place}")


def _experiment(folder: Path, out: Path | None, *, yes: bool, as_json: bool) -> None:
    import json

    from fct_fast.errors import CorruptError
    from fct_fast.experiment import claims, row_titles
    from fct_fast.fs import write_atomic
    from fct_fast.report.experiment import experiment_page

    place = out if out is not None else folder / "report.html"
    if out is not None:
        may_overwrite(place, yes=yes)
    try:
        document = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        page = experiment_page(document, claims(document), row_titles())
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            f"{folder / RESULTS} is not what this version of fct-fast train writes ({error}); run that again"
        ) from error
    write_atomic(place, page.encode())
    if as_json:
        print_json({"report": place, "seeds": document["seeds"]})
    else:
        print_line(f"report: {place}")
