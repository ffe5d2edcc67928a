"""Charts with axes, as inline SVG: means with their intervals, and lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

__all__ = ["Estimate", "Line", "estimates", "lines"]

_ROW = 26  # pixels of a row of `estimates`


@dataclass(frozen=True)
class Estimate:
    """A mean within [low, high]; `kind` names its colour in the page."""

    label: str
    mean: float
    low: float
    high: float
    kind: str


@dataclass(frozen=True)
class Line:
    """A line through points [n]; `kind` names its colour in the page."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    kind: str


def estimates(rows: Sequence[Estimate], marks: Mapping[str, float], *, width: int = 860) -> Markup:
    """A row for each mean with its interval, shares of one; dashed lines at `marks` (caption -> value)."""
    left, right, top = 210, 70, 34
    values = [v for row in rows for v in (row.low, row.high)] + list(marks.values())
    low, high, ticks = _axis(min(values), max(values))
    bottom, plot = top + _ROW * len(rows), width - left - right

    def x(value: float) -> float:
        return round(left + plot * (value - low) / (high - low), 1)

    parts = [Markup('<svg viewBox="0 0 {} {}" role="img" class="chart">').format(width, bottom + 26)]
    for tick in ticks:
        parts.append(Markup('<line x1="{0}" x2="{0}" y1="{1}" y2="{2}" class="grid"/>').format(x(tick), top, bottom))
        parts.append(
            Markup('<text x="{}" y="{}" class="middle">{}</text>').format(x(tick), bottom + 16, _percent(tick))
        )
    for caption, value in marks.items():
        at = x(value)
        parts.append(Markup('<line x1="{0}" x2="{0}" y1="{1}" y2="{2}" class="mark"/>').format(at, top - 8, bottom))
        parts.append(Markup('<text x="{}" y="{}" class="middle">{}</text>').format(at, top - 13, caption))
    for i, row in enumerate(rows):
        y = top + _ROW * (i + 0.5)
        parts.append(Markup('<text x="{}" y="{}" class="end name">{}</text>').format(left - 12, y + 4, row.label))
        box = (x(row.low), x(row.high), y, row.kind)
        parts.append(Markup('<line x1="{0}" x2="{1}" y1="{2}" y2="{2}" class="interval {3}"/>').format(*box))
        parts.append(Markup('<circle cx="{}" cy="{}" r="4.5" class="dot {}"/>').format(x(row.mean), y, row.kind))
        parts.append(Markup('<text x="{}" y="{}" class="end">{:.1f} %</text>').format(width - 4, y + 4, 100 * row.mean))
    return Markup("").join([*parts, Markup("</svg>")])


def lines(
    series: Sequence[Line],
    marks: Mapping[str, float],
    *,
    x_label: str,
    x_text: Callable[[float], str],
    width: int = 620,
    height: int = 300,
) -> Markup:
    """Lines over a common axis, values in shares of one; dashed lines across at `marks`; a key on the right."""
    left, right, top, bottom = 58, 210, 16, height - 44
    xs = [x for line in series for x in line.xs]
    ys = [y for line in series for y in line.ys] + list(marks.values())
    low, high, ticks = _axis(min(ys), max(ys))
    start, stop = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def x(value: float) -> float:
        return round(left + (width - left - right) * (value - start) / (stop - start), 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * (value - low) / (high - low), 1)

    end = width - right
    parts = [Markup('<svg viewBox="0 0 {} {}" role="img" class="chart lines">').format(width, height)]
    for tick in ticks:
        grid = (left, end, y(tick))
        parts.append(Markup('<line x1="{0}" x2="{1}" y1="{2}" y2="{2}" class="grid"/>').format(*grid))
        parts.append(Markup('<text x="{}" y="{}" class="end">{}</text>').format(left - 8, y(tick) + 4, _percent(tick)))
    for value in sorted({start, (start + stop) / 2, stop}):
        label = (x(value), bottom + 18, x_text(value))
        parts.append(Markup('<text x="{}" y="{}" class="middle">{}</text>').format(*label))
    parts.append(Markup('<text x="{}" y="{}" class="middle">{}</text>').format((left + end) / 2, height - 6, x_label))
    for caption, value in marks.items():
        across = (left, end, y(value))
        parts.append(Markup('<line x1="{0}" x2="{1}" y1="{2}" y2="{2}" class="mark"/>').format(*across))
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(end + 8, y(value) + 4, caption))
    free = top + 10.0
    for line in series:
        points = " ".join(f"{x(a)},{y(b)}" for a, b in zip(line.xs, line.ys, strict=True))
        parts.append(Markup('<polyline points="{}" class="line {}"/>').format(points, line.kind))
        if len(line.xs) <= 12:
            for a, b in zip(line.xs, line.ys, strict=True):
                parts.append(Markup('<circle cx="{}" cy="{}" r="3" class="dot {}"/>').format(x(a), y(b), line.kind))
    used = [y(value) for value in marks.values()]
    for line in series:
        while any(abs(free - at) < 14 for at in used):
            free += 6
        key = (end + 8, end + 24, free - 4, line.kind)
        parts.append(Markup('<line x1="{0}" x2="{1}" y1="{2}" y2="{2}" class="line {3}"/>').format(*key))
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(end + 30, free, line.label))
        used.append(free)
        free += 18
    return Markup("").join([*parts, Markup("</svg>")])


def _axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """Ends of an axis that holds [low, high], and its ticks: multiples of a round step."""
    spread = max(high - low, 0.01)
    step = 10.0 ** math.floor(math.log10(spread))
    step = next(step * part for part in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if spread <= 7 * step * part)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return first * step, max(last, first + 1) * step, [i * step for i in range(first, max(last, first + 1) + 1)]


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
