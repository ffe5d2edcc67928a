"""Drawings as inline SVG: sharp on screen and paper, and no picture file to carry along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

__all__ = ["Bar", "bars", "curve"]

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
