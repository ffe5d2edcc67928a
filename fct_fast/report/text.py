"""Numbers as people read them; the command line and the reports write them alike."""

from __future__ import annotations

import math

__all__ = ["amount", "percent", "points", "size", "span"]


def amount(number: float) -> str:
    """1234567 -> '1,234,567'."""
    return f"{number:,.0f}"


def percent(share: float, digits: int = 1) -> str:
    """0.4812 -> '48.1 %'; '-' where there is no number."""
    return f"{100 * share:.{digits}f} %" if math.isfinite(share) else "-"


def points(difference: float) -> str:
    """A difference of shares: 0.0312 -> '+3.1'."""
    return f"{100 * difference:+.1f}"


def size(count: float) -> str:
    """Bytes: 1500000000 -> '1.50 GB'."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count:.0f} bytes"


def span(seconds: float) -> str:
    """Seconds: '20 ms', '4.2 s', '12 s', '3 min 20 s', '5 h 12 min'."""
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
