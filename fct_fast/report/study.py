"""The page of a study: the verdict, the table it rests on, and what else a careful reader asks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fct_fast.report.charts import Estimate, Line, estimates, lines
from fct_fast.report.page import render
from fct_fast.report.text import amount

if TYPE_CHECKING:
    from fct_fast.study import Study
    from fct_fast.study.judge import Judged

__all__ = ["study_page"]

_COLOURS = ("method", "control", "plain-h", "today")


def study_page(study: Study) -> str:
    """The whole HTML page."""
    from fct_fast import __version__

    rows, facts = list(study.rows.values()), study.facts
    marks = {"old": facts.old, "new": facts.new}
    shown = [Estimate(row.name, row.mean, row.interval.low, row.interval.high, _kind(study, row)) for row in rows]
    names = list(study.learning[-1].means) if study.learning else []
    learning = [
        Line(name, [p.pairs for p in study.learning], [p.means[name] for p in study.learning], _COLOURS[i])
        for i, name in enumerate(reversed(names))
    ]
    curves = [
        Line(curve.order, curve.shares.tolist(), curve.values.tolist(), _COLOURS[i])
        for i, curve in enumerate(study.mixtures)
    ]
    return render(
        "study.html",
        study=study,
        facts=facts,
        rows=rows,
        kinds={row.name: _kind(study, row) for row in rows},
        chart=estimates(shown, marks),
        learning=lines(learning, marks, x_label="pairs to fit on", x_text=amount) if len(study.learning) > 1 else None,
        curves=lines(curves, marks, x_label="rows re-embedded", x_text=lambda share: f"{100 * share:.0f} %"),
        doubling=_doubling(study),
        config=json.dumps(study.config.to_json(), indent=2),
        version=__version__,
    )


def _kind(study: Study, row: Judged) -> str:
    if row.name in ("old", "naive"):
        return "today"
    if row.name in ("new", study.best):
        return "goal" if row.name == "new" else "method"
    return "control"


def _doubling(study: Study) -> str:
    """What the last doubling of the pairs won, in a sentence; empty where there is none."""
    if len(study.learning) < 2:
        return ""
    before, after = study.learning[-2:]
    won = 100 * (after.means[study.best] - before.means[study.best])
    return (
        f"From {amount(before.pairs)} to {amount(after.pairs)} pairs {study.best} changed by {won:+.1f} points of "
        f"{study.measure}: {'more pairs would still help' if won >= 0.5 else 'more pairs would hardly help'}."
    )
