"""`fct-fast status`: where a backfill stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fct_fast.cli.job import JobPlace
from fct_fast.cli.options import Json
from fct_fast.cli.output import print_facts, print_json
from fct_fast.report.text import amount

if TYPE_CHECKING:
    from fct_fast.gallery import Status

__all__ = ["run"]


def run(job: JobPlace, as_json: Json = False) -> None:
    """Say where a backfill stands. Takes no lock and changes nothing."""
    from fct_fast.gallery import Job

    status = Job.open(job).status()
    if as_json:
        print_json(status.to_json())
        return
    facts: list[tuple[str, object]] = [
        ("phase", status.phase),
        ("rows", f"{amount(status.rows)} of {amount(status.total_rows)} committed"),
        ("shards", f"{amount(status.shards)} of {amount(status.total_shards)}"),
        ("zero rows", _flagged(status)),
        ("gallery", status.sink),
        ("job directory", status.job_dir),
    ]
    if status.verification is not None:
        outcome = "passed" if status.verification.passed else "FAILED"
        facts.append(("verification", f"{outcome} at {status.verification.time}"))
    print_facts(facts)


def _flagged(status: Status) -> str:
    shown = ", ".join(map(str, status.first_flagged))
    more = ", ..." if status.flagged > len(status.first_flagged) else ""
    return f"{amount(status.flagged)} (row {shown}{more})" if shown else amount(status.flagged)
