"""The page of a backfill: what was upgraded, how fast, what was checked, and some rows as they are stored now."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.report.page import render
from fct_fast.report.svg import rates
from fct_fast.report.text import amount

__all__ = ["job_page"]

_POINTS = 120  # of the drawing


def job_page(
    plan: Mapping[str, Any],
    status: Mapping[str, Any],
    history: Mapping[str, Any] | None,
    samples: Sequence[Mapping[str, Any]],
    trouble: str = "",
) -> str:
    """The whole HTML page.

    plan, status: `Plan.to_json` and `Status.to_json`. history: rows [n], seconds [n], started, ended, pauses and
    rows_per_second of `Job.history`, None before the first commit. samples: rows of `Job.samples`; trouble: why there
    are none.
    """
    from fct_fast import __version__

    return render(
        "job.html",
        plan=plan,
        status=status,
        history=history,
        drawing=None if history is None else _drawing(history["rows"], history["seconds"]),
        started=_moment(history["started"]) if history else "",
        ended=_moment(history["ended"]) if history else "",
        samples=samples,
        columns=list(samples[0]["payload"]) if samples else [],
        trouble=trouble,
        reading=_reading(plan, status),
        version=__version__,
    )


def _drawing(rows: npt.NDArray[np.int64], seconds: npt.NDArray[np.float64]) -> Any:
    """Rows a second over the time of work, in even steps; None where two commits are not enough to tell."""
    if len(rows) < 3 or seconds[-1] <= 0:
        return None
    edges = np.linspace(0, seconds[-1], min(_POINTS, max(2, len(rows) // 2)) + 1)
    done = np.interp(edges, seconds, np.concatenate([[0], np.cumsum(rows[1:])]))
    return rates(edges, np.diff(done) / np.diff(edges))


def _reading(plan: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """Where the job stands and what comes next, in a sentence or two."""
    model = plan["new_space"]["model_id"]
    queries = f"queries must be embedded by {model!r}" if model else "queries must be embedded by the new model"
    left = status["total_rows"] - status["rows"]
    return {
        "planned": "Nothing is written yet.",
        "running": f"The job is running; {amount(left)} rows are left.",
        "stopped": f"The job stopped with {amount(left)} rows left; the command that began it resumes it.",
        "complete": "All rows are written and not yet verified; fct-fast verify does that, and cutover asks for it.",
        "verified": f"The gallery is verified and not yet live. After fct-fast cutover, {queries}.",
        "failed verification": "The gallery failed its verification and must not be served; the checks say why.",
        "live": f"The gallery is live: {queries}. fct-fast rollback puts the old gallery back.",
    }[status["phase"]]


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
