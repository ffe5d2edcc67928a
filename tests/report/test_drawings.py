"""Drawings and numbers of the reports."""

from __future__ import annotations

import re

import numpy as np
import pytest
from html_support import Page

from fct_fast.report.page import data_uri, render
from fct_fast.report.svg import Bar, bars, curve
from fct_fast.report.text import amount, percent, points, size, span


def test_bars_are_as_long_as_their_values() -> None:
    drawing = bars(
        [Bar("a", 0.2, "x", (0.1, 0.3)), Bar("b", 0.4, "y", (0.4, 0.4)), Bar("c", 0.0, "z", (0, 0))], {"old": 0.2}
    )
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', drawing)]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert widths[2] == 0
    left, circle = (
        float(re.search(pattern, drawing)[1]) for pattern in (r'rect x="([\d.]+)"', r'circle cx="([\d.]+)"')
    )
    assert circle - left == pytest.approx(widths[0] / 2, abs=0.2)
    Page(drawing)


@pytest.mark.parametrize("value", [0.0, 0.05, 0.1, 0.93, 1.0])
def test_bars_stay_inside(value: float) -> None:
    drawing = bars([Bar("a", value, "x", (value, value))], {"new": value}, width=760)
    numbers = [float(x) for x in re.findall(r'(?:x1|x2|cx)="([\d.]+)"', drawing)]
    assert max(numbers) <= 760 - 60


def test_names_in_drawings_are_escaped() -> None:
    drawing = bars([Bar("<b>", 0.2, "x", (0.1, 0.3))], {"</svg>": 0.1})
    assert "&lt;b&gt;" in drawing
    assert "&lt;/svg&gt;" in drawing


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], list(np.linspace(5, 1, 1000)), [3.0, 1.0, 2.0]])
def test_a_curve_runs_from_edge_to_edge(values: list[float]) -> None:
    drawing = curve(values, width=220, height=70)
    line = np.array([[float(x) for x in pair.split(",")] for pair in re.search('points="([^"]+)"', drawing)[1].split()])
    assert len(line) == min(len(values), 110)
    assert ((line >= 0) & (line <= [220, 70])).all()
    if len(set(values)) > 1:
        assert (line[:, 1].min(), line[:, 1].max()) == (2, 68)
        assert (line[0, 0], line[-1, 0]) == (2, 218)


def test_a_missing_name_is_an_error() -> None:
    with pytest.raises(Exception, match="result"):
        render("demo.html")


def test_a_picture_is_a_small_png() -> None:
    assert data_uri(np.zeros((28, 28), np.uint8)).startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (amount(1234567.4), "1,234,567"),
        (percent(0.4812), "48.1 %"),
        (percent(0.4812, 0), "48 %"),
        (percent(float("nan")), "-"),
        (points(0.0312), "+3.1"),
        (points(-0.01), "-1.0"),
        (size(12), "12 bytes"),
        (size(1.5e9), "1.50 GB"),
        (size(2e12), "2.00 TB"),
        (span(0.0201), "20 ms"),
        (span(4.23), "4.2 s"),
        (span(9.97), "10 s"),
        (span(59.6), "1 min 0 s"),
        (span(200), "3 min 20 s"),
        (span(18_720), "5 h 12 min"),
    ],
)
def test_numbers_as_people_read_them(told: str, expected: str) -> None:
    assert told == expected
