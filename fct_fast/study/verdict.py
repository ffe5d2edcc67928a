"""The verdict: upgrade, upgrade and re-embed a share, or do not; in one sentence, with its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fct_fast.evaluation.intervals import Interval

__all__ = ["Decision", "Facts", "Verdict", "decide"]

Decision = Literal["upgrade", "upgrade and re-embed", "do not upgrade"]


DIP = 0.005  # of what is judged, worth a word
FEW_STEPS = 2000


@dataclass(frozen=True)
class Facts:
    """What a verdict rests on.

    measure: its name ("mAP"). old, new, upgraded: means of the status quo, of the new model throughout, and of the best
    map. new_gain, upgrade_gain: intervals of new - old and upgraded - old, paired. best, simpler: names of the best map
    and of the best closed form; lead: interval of best - simpler, None where they are one. target: share of the gap
    that is asked for. share: of rows to re-embed to reach it, in the order `order`; dip: how far a mixed gallery falls
    below the upgraded one on the way. steps: of training that h had, None where it is a closed form. labels: whether
    there are labels.
    """

    measure: str
    old: float
    new: float
    upgraded: float
    new_gain: Interval
    upgrade_gain: Interval
    best: str
    simpler: str
    lead: Interval | None
    target: float
    share: float
    order: str
    dip: float
    steps: int | None
    labels: bool

    @property
    def gap_closed(self) -> float:
        """Share of the gap between old and new that the map wins; 0 where there is no gap."""
        return (self.upgraded - self.old) / (self.new - self.old) if self.new > self.old else 0.0


@dataclass(frozen=True)
class Verdict:
    """sentence: the decision and why; notes: what else a careful reader should know. share: of rows to re-embed."""

    decision: Decision
    sentence: str
    notes: Sequence[str]
    share: float


def decide(facts: Facts) -> Verdict:
    """From the facts alone; a difference counts only where its whole interval lies on one side of zero."""
    f, notes = facts, _notes(facts)
    if f.labels and f.new_gain.low <= 0:
        worse = "is worse than" if f.new_gain.high < 0 else "is not shown to be better than"
        return Verdict(
            "do not upgrade",
            f"Do not upgrade: the new model {worse} the old one ({f.measure} {_gain(f.new_gain)}), so no gallery in "
            f"its space can be worth the change.",
            notes,
            0.0,
        )
    if f.upgrade_gain.low <= 0:
        return Verdict(
            "do not upgrade",
            f"Do not upgrade by a map: the best one, {f.best}, does not beat the gallery as it stands ({f.measure} "
            f"{_gain(f.upgrade_gain)}); re-embed, or store side-information and fit again.",
            notes,
            1.0,
        )
    part = f"{100 * f.gap_closed:.0f} % of" if f.gap_closed < 1 else "all of"
    won = f"wins {part} the gap between the old and the new model ({f.measure} {_gain(f.upgrade_gain)})"
    if f.upgrade_gain.high >= f.target * (f.new - f.old):  # not shown to be below the target
        return Verdict("upgrade", f"Upgrade with {f.best}: it {won}, and no row must be re-embedded.", notes, 0.0)
    if f.dip >= DIP:
        notes.append(
            f"On the way a mixed gallery is up to {100 * f.dip:.1f} points worse than the upgraded one, since true and "
            f"mapped rows are not quite in one space; put the re-embedded rows live together."
        )
    return Verdict(
        "upgrade and re-embed",
        f"Upgrade with {f.best} and re-embed {_share(f.share)} of the rows ({f.order}): the map alone {won}, and this "
        f"share brings it to {100 * f.target:.0f} %.",
        notes,
        f.share,
    )


def _notes(f: Facts) -> list[str]:
    notes = []
    if not f.labels:
        notes.append(
            "Without labels nothing says that the new model is better, only how much of its neighbourhoods a gallery "
            "keeps; give labels, or judge the new model by other means first."
        )
    if f.lead is not None and f.lead.low <= 0:
        notes.append(
            f"The closed form {f.simpler} is not shown to be worse than {f.best} ({f.measure} {_gain(f.lead)} for "
            f"{f.best}); it is fitted in seconds and costs less to run."
        )
    if f.best != "h" and f.steps is not None and f.steps < FEW_STEPS:
        notes.append(
            f"h had {f.steps:,} steps of training, which is few; give it more epochs before {f.best} is preferred "
            f"to it."
        )
    return notes


def _gain(interval: Interval) -> str:
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.mean:+.1f} points, {100 * interval.level:.0f} % interval {low:+.1f} to {high:+.1f}"


def _share(share: float) -> str:
    return "all" if share >= 0.995 else f"{max(1, round(100 * share))} %"
