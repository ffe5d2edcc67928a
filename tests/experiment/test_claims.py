"""Sentences follow the numbers: the same numbers turned round are told turned round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fct_fast.experiment.claims import between, claims, judge, order_holds

ABOVE, BELOW, OPEN = (0.05, 0.03, 0.07), (-0.05, -0.07, -0.03), (0.01, -0.02, 0.04)
STEPS = ("best - old", "h - best", "h_side - h", "new - h_side")
Make = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("low", "high", "least", "verdict"),
    [
        (0.01, 0.03, 0.0, "shown"),
        (-0.01, 0.03, 0.0, "open"),
        (-0.03, -0.01, 0.0, "refuted"),
        (0.0, 0.02, 0.0, "open"),
        (0.011, 0.03, 0.01, "shown"),
        (0.002, 0.03, 0.01, "open"),
        (0.002, 0.009, 0.01, "refuted"),
        (None, None, 0.0, "open"),
    ],
)
def test_verdicts(low: float | None, high: float | None, least: float, verdict: str) -> None:
    assert judge({"mean": 0.02, "low": low, "high": high}, least) == verdict


def test_points() -> None:
    assert between({"mean": 0.0312, "low": 0.02, "high": 0.0424}) == "+3.1 [+2.0, +4.2]"
    assert between({"mean": -0.01, "low": None, "high": None}) == "-1.0"


def sentence(document: dict[str, Any], start: str) -> str:
    (found,) = (said for said in claims(document) if said.startswith(start))
    return found


def test_the_order_is_claimed_where_every_step_is_shown(made_up: Make) -> None:
    document = made_up(**dict.fromkeys(STEPS, ABOVE))
    assert order_holds(document)
    assert sentence(document, "So the order").endswith("new/new holds.")
    assert "is above h without side-information: +5.0 [+3.0, +7.0]" in sentence(document, "h with side-information is")


@pytest.mark.parametrize("broken", STEPS)
@pytest.mark.parametrize(("how", "words"), [(BELOW, "is BELOW"), (OPEN, "is not shown to be above")])
def test_one_step_that_is_not_shown_breaks_the_order(
    made_up: Make, broken: str, how: tuple[float, float, float], words: str
) -> None:
    document = made_up(**(dict.fromkeys(STEPS, ABOVE) | {broken: how}))
    assert not order_holds(document)
    assert "does not hold as a whole" in sentence(document, "So the order")
    assert sum(words in said for said in claims(document)[:4]) == 1


@pytest.mark.parametrize(
    ("how", "words"), [(ABOVE, "adds to it"), (BELOW, "TAKES from it"), (OPEN, "adds nothing that is shown to it")]
)
def test_what_the_old_embedding_adds(made_up: Make, how: tuple[float, float, float], words: str) -> None:
    assert words in sentence(made_up(**{"h_side - side": how}), "Side-information alone")


def test_bct_above_fct_is_said(made_up: Make) -> None:
    document = made_up(**{"h_side - bct": BELOW, "bct - old": ABOVE})
    assert "is above old/old (+5.0" in sentence(document, "BCT")
    assert "FCT's upgraded gallery is BELOW it (-5.0" in sentence(document, "BCT")


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.012, 0.03, "at least 1 point above"), (0.001, 0.03, "not shown to be 1"), (0.001, 0.008, "NOT 1 point above")],
)
def test_fastfills_order(made_up: Make, low: float, high: float, words: str) -> None:
    document = made_up()
    document["curves"]["h_side_fastfill"]["uncertainty"]["above_random"] = {"mean": 0.02, "low": low, "high": high}
    assert words in sentence(document, "Partial backfill with side-information")


def test_the_scale_check_looks_at_every_seed(made_up: Make) -> None:
    document = made_up()
    (found,) = (d for d in document["differences"] if d["a"] == "h_side@unit")
    found["values"] = [0.0, 0.004]
    assert "0.5 points holds" in sentence(document, "Scale")
    found["values"] = [0.0, -0.006]
    assert "0.60 points in any seed; the promise of 0.5 points does NOT hold" in sentence(document, "Scale")


def test_compression_names_the_fewest_bytes_that_keep_most(made_up: Make) -> None:
    document = made_up()
    for name, value in (("h", 0.2), ("h_side", 0.4), ("h_side@pca4", 0.39), ("h_side@binary", 0.385)):
        document["rows"][name]["map"]["mean"] = value
    assert "binary keeps 92 %" in sentence(document, "Compression")
    document["rows"]["h_side@binary"]["map"]["mean"] = 0.3
    assert "pca4 keeps 95 %" in sentence(document, "Compression")
    document["rows"]["h_side"]["map"]["mean"] = 0.1
    assert "nothing to keep" in sentence(document, "Compression")


def test_a_single_seed_shows_nothing(made_up: Make) -> None:
    document = made_up()
    document["seeds"] = [0]
    assert claims(document)[0].startswith("This is a single seed")
