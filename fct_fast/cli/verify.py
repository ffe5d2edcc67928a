"""`fct-fast verify`: is the upgraded gallery what h makes of the source?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fct_fast.cli.job import JobPlace
from fct_fast.cli.options import Json
from fct_fast.cli.output import print_json, print_line
from fct_fast.cli.progress import Meter
from fct_fast.errors import VerificationError
from fct_fast.report.text import span

if TYPE_CHECKING:
    from fct_fast.gallery import Job, Verification

__all__ = ["run", "verify_and_show"]


def run(
    job: JobPlace,
    sample_rows: Annotated[int, typer.Option(min=1, metavar="N", help="Rows computed anew in float64.")] = 1024,
    reference: Annotated[
        Path | None,
        typer.Option(help="True new embeddings of some rows, .npy [m, new_dim]; then overlap@k is measured."),
    ] = None,
    reference_ids: Annotated[
        Path | None, typer.Option(help="Ids of these rows (row numbers where the gallery has no ids), .npy [m].")
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Depth of the overlap.")] = 10,
    min_overlap: Annotated[float | None, typer.Option(min=0, max=1, help="Fail below this overlap@k.")] = None,
    as_json: Json = False,
) -> None:
    """Verify an upgraded gallery: counts, ids, checksums, norms, a sample in float64. Exit code 3 when it fails."""
    from fct_fast.cli.arrays import read_array, read_rows
    from fct_fast.gallery import Job

    if (reference is None) != (reference_ids is None) or (min_overlap is not None and reference is None):
        raise typer.BadParameter("--reference and --reference-ids go together, and --min-overlap needs them")
    options: dict[str, Any] = {"sample_rows": sample_rows, "k": k, "min_overlap": min_overlap}
    if reference is not None and reference_ids is not None:
        options["reference"] = (read_rows(reference), read_array(reference_ids))
    opened = Job.open(job)
    try:
        result = verify_and_show(opened, quiet=as_json, **options)
    except VerificationError:
        outcome = opened.status().verification
        if as_json and outcome is not None:
            print_json(outcome.to_json())
        raise
    if as_json:
        print_json(result.to_json())


def verify_and_show(job: Job, *, quiet: bool, **options: Any) -> Verification:
    """Verify, with progress, and print the checks unless `quiet`; raises VerificationError after printing."""
    row_bytes = job.plan.layout.row_bytes
    try:
        with Meter("verify", job.plan.rows, row_bytes=row_bytes) as meter:
            result = job.verify(progress=lambda done, _: meter.update(done), **options)
    except VerificationError:
        outcome = job.status().verification
        if outcome is not None and not quiet:
            _show(outcome)
        raise
    if not quiet:
        _show(result)
    return result


def _show(result: Verification) -> None:
    width = max(len(check.name) for check in result.checks)
    for check in result.checks:
        print_line(f"{'ok  ' if check.passed else 'FAIL'}  {check.name:<{width}}  {check.detail}")
    print_line(f"{'verified' if result.passed else 'NOT verified'} in {span(result.seconds)}")
