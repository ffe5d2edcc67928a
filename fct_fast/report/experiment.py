"""The page of an experiment: what it says, the rows with their intervals, bytes and orders of re-embedding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fct_fast.report.charts import Estimate, Line, estimates, lines
from fct_fast.report.page import render
from fct_fast.report.text import amount

__all__ = ["experiment_page"]

_CHART = (
    "naive", "old", "procrustes_whitened", "ridge", "residual", "h", "side", "ridge_side", "residual_side", "h_side",
    "h_side_fastfill", "query_ridge", "bct", "l2", "wide", "new",
)  # fmt: skip
_KINDS = {"naive": "today", "old": "today", "h": "plain-h", "h_side": "method", "new": "goal"}
_ORDERS = {"uncertainty": "method", "random": "today", "residual": "control", "oracle": "goal"}


def experiment_page(document: Mapping[str, Any], claims: Sequence[str], titles: Mapping[str, str]) -> str:
    """The whole HTML page. document: as `fct-fast train` keeps it in results.json; claims: its sentences; titles: row
    -> what it is."""
    from fct_fast import __version__

    rows, seeds = document["rows"], document["seeds"]
    gallery = document["curves"].get("h_side_fastfill", {})
    curves = [
        Line(name, gallery[name]["shares"], gallery[name]["map"], kind)
        for name, kind in _ORDERS.items()
        if name in gallery
    ]
    marks = {"old": rows["old"]["map"]["mean"], "new": rows["new"]["map"]["mean"]}
    return render(
        "experiment.html",
        document=document,
        claims=claims,
        titles=titles,
        rows=rows,
        chart=estimates([_estimate(name, rows[name]["map"]) for name in _CHART if name in rows], marks),
        curves=lines(curves, {}, x_label="rows re-embedded", x_text=lambda share: f"{100 * share:.0f} %")
        if curves
        else None,
        codecs=_codecs(document),
        seeds=", ".join(str(seed) for seed in seeds),
        recipe=json.dumps(document["recipe"], indent=2),
        pairs=amount(document["pairs"]),
        version=__version__,
    )


def _estimate(name: str, found: Mapping[str, Any]) -> Estimate:
    mean = found["mean"]
    low, high = (mean if found[end] is None else found[end] for end in ("low", "high"))
    return Estimate(name, mean, low, high, _KINDS.get(name, "control"))


def _codecs(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each compression of side-information: bytes an item, mAP and the share of the gap; the most bytes first."""
    rows, stored = document["rows"], document["side_bytes"]
    names = ["h_side", *(f"h_side@{codec}" for codec in document["recipe"]["codecs"]), "h"]
    found = [
        {"name": name, "bytes": stored[name], "map": rows[name]["map"], "gap": rows[name]["gap"]}
        for name in names
        if name in rows
    ]
    return sorted(found, key=lambda row: -int(row["bytes"]))
