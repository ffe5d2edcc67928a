"""The page of a demo run: table, plot, pictures, what was upgraded, and what the control rows say."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING

from fct_fast.report.page import render
from fct_fast.report.svg import Bar, bars, curve
from fct_fast.report.text import percent

if TYPE_CHECKING:
    from fct_fast.demo.result import DemoResult

__all__ = ["demo_page", "reading"]

# Row of the table -> its colour: what there is today, a control, the method, the goal.
_KINDS = {
    "side": "control",
    "linear": "control",
    "linear_side": "control",
    "h": "plain-h",
    "h_side": "method",
    "new": "goal",
}


def demo_page(result: DemoResult, titles: Mapping[str, tuple[str, str]]) -> str:
    """The whole HTML page. titles: row of the table -> (what is searched, what it says)."""
    from fct_fast import __version__

    all_queries, seen, unseen = result.rows, result.rows_seen, result.rows_unseen
    chart = [
        Bar(name, all_queries[name].map, _KINDS.get(name, "today"), (seen[name].map, unseen[name].map))
        for name in titles
    ]
    versions = {"fct-fast": __version__, "python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in ("numpy", "torch", "pytorch-metric-learning")}
    return render(
        "demo.html",
        result=result,
        titles=titles,
        kinds=_KINDS,
        reading=reading(result),
        chart=bars(chart, {"old": all_queries["old"].map, "new": all_queries["new"].map}),
        curves={name: (curve(values), values[0], values[-1]) for name, values in result.losses.items() if values},
        recipe=json.dumps(result.recipe.to_json(), indent=2),
        versions=versions,
        machine=f"{platform.machine()}, {platform.system()}",
    )


def reading(result: DemoResult) -> list[str]:
    """The table in plain sentences, the controls included; they follow from the numbers, whatever those are."""
    rows = {name: row.map for name, row in result.rows.items()}
    gap = rows["new"] - rows["old"]
    if gap > 0:
        gain = (
            f"The new model is {100 * gap:.1f} mAP points better than the old one; the upgrade with side-information "
            f"(h_side) wins {percent(result.gap_closed, 0)} of them without reading an image again, and without "
            f"side-information (h) it wins {percent(result.gap_closed_by('h'), 0)}."
        )
    else:
        gain = "The new model is not better than the old one in mAP in this run, so there was nothing to win."
    naive = (
        f"Swapping the model and nothing else (naive) finds the right class first in "
        f"{percent(result.rows['naive'].cmc1)} of the queries."
    )
    controls = (
        f"Controls: side-information alone (side) reaches {percent(rows['side'])} mAP and a linear map of both inputs "
        f"(linear_side) {percent(rows['linear_side'])}; so in h_side ({percent(rows['h_side'])}) the old embedding "
        f"{_worth(rows['h_side'] - rows['side'])}, and the network in place of a linear map "
        f"{_worth(rows['h_side'] - rows['linear_side'])}."
    )
    inputs = (
        f"Side-information {_worth(rows['h_side'] - rows['h'])} to what h makes of the old embedding alone, and "
        f"{_worth(rows['linear_side'] - rows['linear'])} to what a linear map makes of it."
    )
    return [gain, naive, inputs, controls]


def _worth(difference: float) -> str:
    if abs(difference) < 0.005:
        return f"adds next to nothing ({100 * difference:+.1f} points)"
    return f"{'adds' if difference > 0 else 'costs'} {100 * abs(difference):.1f} points"
