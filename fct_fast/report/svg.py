"""Drawings as inline SVG: sharp on screen and paper, and no picture file to carry along."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from fct_fast.report.text import span

__all__ = ["Bar", "bars", "curve", "rates"]

_LABEL_WIDTH, _ROW, _BAR = 120, 30, 16  # of a bar chart, in pixels


@dataclass(frozen=True)
class Bar:
    """A bar from 0 to `value`; `dots` are marked on its line (filled, hollow). `kind` names its colour in the page."""

    label: str
    value: float
    kind: str
    dots: tuple[float, float]


def bars(rows: Sequence[Bar], marks: Mapping[str, float], *, width: int = 760) -> Markup:
    """Horizontal bars of shares in [0, 1], with dashed lines at `marks` (caption -> value)."""
    top, plot = 32, width - _LABEL_WIDTH - 80
    height = top + _ROW * len(rows) + 24
    largest = max([0.01, *(v for row in rows for v in (row.value, *row.dots)), *marks.values()])
    limit = next((tick / 10 for tick in range(1, 10) if largest <= tick / 10), 1.0)

    def x(value: float) -> float:
        return round(_LABEL_WIDTH + plot * value / limit, 1)

    parts = [Markup('<svg viewBox="0 0 {} {}" role="img" class="bars">').format(width, height)]
    bottom = top + _ROW * len(rows)
    for tick in range(round(limit * 10) + 1):
        at = x(tick / 10)
        parts.append(Markup('<line x1="{0}" x2="{0}" y1="{1}" y2="{2}" class="grid"/>').format(at, top, bottom))
        parts.append(Markup('<text x="{}" y="{}" class="tick">{} %</text>').format(at, bottom + 16, 10 * tick))
    for i, row in enumerate(rows):
        y = top + _ROW * i + _ROW / 2
        parts.append(Markup('<text x="{}" y="{}" class="name">{}</text>').format(_LABEL_WIDTH - 10, y + 4, row.label))
        box = (_LABEL_WIDTH, y - _BAR / 2, max(0.0, x(row.value) - _LABEL_WIDTH), _BAR, row.kind)
        parts.append(Markup('<rect x="{}" y="{}" width="{}" height="{}" class="bar {}"/>').format(*box))
        for value, kind in zip(row.dots, ("filled", "hollow"), strict=True):
            parts.append(Markup('<circle cx="{}" cy="{}" r="4" class="{}"/>').format(x(value), y, kind))
        parts.append(
            Markup('<text x="{}" y="{}" class="value">{:.1f} %</text>').format(width - 4, y + 4, 100 * row.value)
        )
    for caption, value in marks.items():
        at = x(value)
        parts.append(Markup('<line x1="{0}" x2="{0}" y1="{1}" y2="{2}" class="mark"/>').format(at, top - 8, bottom))
        parts.append(Markup('<text x="{}" y="{}" class="caption">{}</text>').format(at, top - 13, caption))
    return Markup("").join([*parts, Markup("</svg>")])


def curve(values: Sequence[float], *, width: int = 220, height: int = 70, most: int = 110) -> Markup:
    """A line over the whole width and height; long series are averaged to `most` points."""
    pieces = np.array_split(np.asarray(values, np.float64), min(most, len(values)))
    means = np.array([piece.mean() for piece in pieces])
    low, high = float(means.min()), float(means.max())
    xs = np.linspace(2, width - 2, len(means)) if len(means) > 1 else np.array([width / 2])
    ys = 2 + (height - 4) * (1 - (means - low) / ((high - low) or 1.0))
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    drawing = Markup('<svg viewBox="0 0 {} {}" role="img" class="curve"><polyline points="{}"/></svg>')
    return drawing.format(width, height, points)


def rates(edges: npt.NDArray[np.float64], values: npt.NDArray[np.float64], *, width: int = 760) -> Markup:
    """Rates as steps: `values` [n] between `edges` [n + 1], in seconds; the axis begins at 0."""
    left, top, plot, height = 80, 10, 160, 200
    step = 10.0 ** math.floor(math.log10(max(float(values.max()), 1e-9)))
    step = next(step * part for part in (0.2, 0.5, 1.0, 2.0, 5.0) if values.max() <= 5 * step * part)
    limit = step * math.ceil(float(values.max()) / step)

    def x(second: float) -> float:
        return round(left + (width - left - 40) * second / float(edges[-1]), 1)

    def y(value: float) -> float:
        return round(top + plot * (1 - value / limit), 1)

    parts = [Markup('<svg viewBox="0 0 {} {}" role="img" class="rates">').format(width, height)]
    for tick in range(round(limit / step) + 1):
        at = y(tick * step)
        parts.append(Markup('<line x1="{}" x2="{}" y1="{}" y2="{}" class="grid"/>').format(left, width - 40, at, at))
        label = f"{tick * step:,.10g}"
        parts.append(Markup('<text x="{}" y="{}" class="tick">{}</text>').format(left - 8, at + 4, label))
    for share in (0.0, 0.5, 1.0):
        at, label = share * float(edges[-1]), span(share * float(edges[-1]))
        parts.append(Markup('<text x="{}" y="{}" class="time">{}</text>').format(x(at), height - 8, label))
    corners = zip(np.repeat(edges, 2)[1:-1].tolist(), np.repeat(values, 2).tolist(), strict=True)
    points = " ".join(f"{x(second)},{y(value)}" for second, value in corners)
    parts.append(Markup('<polyline points="{}" class="line"/>').format(points))
    return Markup("").join([*parts, Markup("</svg>")])
