"""The verdict follows from the intervals: no upgrade to a worse model, none by a map that wins nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fct_fast.evaluation.intervals import Interval
from fct_fast.study.verdict import Facts, decide

GOOD = Facts(
    measure="mAP",
    old=0.30,
    new=0.50,
    upgraded=0.49,
    new_gain=Interval(0.20, 0.18, 0.22),
    upgrade_gain=Interval(0.19, 0.17, 0.21),
    best="h",
    simpler="ridge + side",
    lead=Interval(0.04, 0.03, 0.05),
    target=0.9,
    share=0.0,
    order="uncertainty",
    dip=0.0,
    steps=5000,
    labels=True,
)


def test_a_map_that_closes_the_gap_is_an_upgrade():
    told = decide(GOOD)
    assert told.decision == "upgrade"
    assert told.share == 0
    assert "95 % of the gap" in told.sentence
    assert not told.notes


def test_a_map_that_closes_less_asks_for_a_share():
    told = decide(replace(GOOD, upgraded=0.40, upgrade_gain=Interval(0.10, 0.08, 0.12), share=0.234))
    assert (told.decision, told.share) == ("upgrade and re-embed", 0.234)
    assert "re-embed 23 % of the rows (uncertainty)" in told.sentence
    assert "50 % of the gap" in told.sentence
    mixed = decide(replace(GOOD, upgraded=0.40, upgrade_gain=Interval(0.10, 0.08, 0.12), share=0.234, dip=0.02))
    assert "2.0 points worse" in mixed.notes[0]


def test_a_gap_that_may_reach_the_target_needs_no_share():
    told = decide(replace(GOOD, upgraded=0.47, upgrade_gain=Interval(0.17, 0.15, 0.19), share=0.6))
    assert (told.decision, told.share) == ("upgrade", 0.0)
    assert "85 % of the gap" in told.sentence


@pytest.mark.parametrize(
    ("gain", "says"),
    [(Interval(-0.05, -0.07, -0.03), "is worse than"), (Interval(0.01, -0.01, 0.03), "is not shown to be better than")],
)
def test_a_new_model_that_is_not_better_is_no_upgrade(gain, says):
    told = decide(replace(GOOD, new_gain=gain))
    assert told.decision == "do not upgrade"
    assert says in told.sentence


@pytest.mark.parametrize("gain", [Interval(-0.02, -0.04, -0.01), Interval(0.01, -0.005, 0.02)])
def test_a_map_that_does_not_beat_the_status_quo_is_no_upgrade(gain):
    told = decide(replace(GOOD, upgrade_gain=gain))
    assert told.decision == "do not upgrade"
    assert "does not beat the gallery as it stands" in told.sentence
    # Without labels the new model cannot be called worse, but a map can still win nothing.
    assert decide(replace(GOOD, labels=False, upgrade_gain=gain)).decision == "do not upgrade"


def test_what_a_careful_reader_should_know_is_noted():
    level = decide(replace(GOOD, lead=Interval(0.001, -0.01, 0.012)))
    assert "ridge + side is not shown to be worse than h" in level.notes[0]
    short = decide(replace(GOOD, best="ridge + side", lead=None, steps=90))
    assert "h had 90 steps of training" in short.notes[0]
    assert not decide(replace(GOOD, best="ridge + side", lead=None)).notes
    plain = decide(replace(GOOD, labels=False, new_gain=Interval(-0.1, -0.2, -0.05)))
    assert plain.decision == "upgrade"
    assert "Without labels" in plain.notes[0]
