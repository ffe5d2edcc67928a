"""Charts draw their numbers where the axis has them, escape names and stay inside."""

from __future__ import annotations

import re

import numpy as np
import pytest
from html_support import Page

from fct_fast.report.charts import Estimate, Line, estimates, lines


def test_estimates_lie_on_a_common_axis():
    rows = [Estimate("a", 0.2, 0.1, 0.3, "x"), Estimate("b", 0.4, 0.35, 0.45, "y")]
    drawing = estimates(rows, {"old": 0.2, "new": 0.4})
    centres = [float(x) for x in re.findall(r'cx="([\d.]+)"', drawing)]
    marks = [float(x) for x in re.findall(r'<line x1="([\d.]+)"[^>]*class="mark"', drawing)]
    assert centres == pytest.approx(marks, abs=0.2)
    spans = [
        (float(a), float(b)) for a, b in re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)"[^>]*class="interval', drawing)
    ]
    scale = (centres[1] - centres[0]) / 0.2
    for (low, high), row in zip(spans, rows, strict=True):
        assert high - low == pytest.approx(scale * (row.high - row.low), abs=0.3)
    Page(drawing)


def test_lines_rise_and_fall_as_their_values():
    drawing = lines(
        [Line("<up>", [0, 1, 2], [0.1, 0.2, 0.4], "x"), Line("down", [0, 2], [0.4, 0.1], "y")],
        {"</svg>": 0.25},
        x_label="pairs",
        x_text=lambda x: f"{x:.0f}",
    )
    up, down = (np.array([point.split(",") for point in points.split()], float)
                for points in re.findall(r'polyline points="([^"]+)"', drawing))  # fmt: skip
    assert (np.diff(up[:, 1]) < 0).all()  # y grows downwards
    assert down[0, 1] == pytest.approx(up[-1, 1])
    assert up[1, 1] - up[0, 1] == pytest.approx((up[2, 1] - up[1, 1]) / 2, abs=0.2)
    assert "&lt;up&gt;" in drawing
    assert "&lt;/svg&gt;" in drawing
    Page(drawing)


@pytest.mark.parametrize("value", [0.0, 0.001, 0.5, 1.0])
def test_a_single_value_has_an_axis(value: float):
    for drawing in (
        estimates([Estimate("a", value, value, value, "x")], {}),
        lines([Line("a", [5.0], [value], "x")], {"m": value}, x_label="", x_text=str),
    ):
        numbers = [float(x) for x in re.findall(r'(?:x1|x2|cx|cy)="(-?[\d.]+)"', drawing)]
        assert 0 <= min(numbers) <= max(numbers) <= 860
        Page(drawing)
