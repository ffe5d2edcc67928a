"""Study: all that a study found, for a table, a page or a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fct_fast.evaluation.cost import CostTable
from fct_fast.evaluation.flips import Flips
from fct_fast.evaluation.intervals import Interval
from fct_fast.evaluation.threshold import ThresholdShift
from fct_fast.study.config import StudyConfig
from fct_fast.study.judge import Judged
from fct_fast.study.mixture import Mixture
from fct_fast.study.verdict import Facts, Verdict
from fct_fast.training import FitResult

__all__ = ["LearningPoint", "Study"]


@dataclass(frozen=True)
class LearningPoint:
    """pairs: that h was fitted on; means: what is judged, by candidate."""

    pairs: int
    means: dict[str, float]


@dataclass(frozen=True)
class Study:
    """What `run_study` found.

    rows: "old", "naive" where the widths agree, the candidates and "new", as they are judged on the test rows; measure:
    what is judged ("mAP" or "overlap@10"). against: by candidate, the paired interval of its mean minus the old one's.
    best: the candidate that the rows held out for choices put first. fits: by candidate, on all rows but the test rows.
    flips, shift: from old to the best map, None without labels. seconds: of each fit.
    """

    config: StudyConfig
    measure: str
    train_rows: int
    test_rows: int
    queries: int
    split: str
    rows: dict[str, Judged]
    against: dict[str, Interval]
    best: str
    facts: Facts
    verdict: Verdict
    learning: Sequence[LearningPoint]
    mixtures: Sequence[Mixture]
    cost: CostTable
    flips: Flips | None
    shift: ThresholdShift | None
    fits: Mapping[str, FitResult]
    seconds: Mapping[str, float]

    @property
    def fit(self) -> FitResult:
        """The best map, fitted on all rows but the test rows."""
        return self.fits[self.best]

    def to_json(self) -> dict[str, Any]:
        """All of it but the fits as plain JSON values."""
        rows = {
            name: {
                "about": row.about,
                "mean": row.mean,
                "interval": [row.interval.low, row.interval.high],
                "overlap": row.overlap,
                **({} if row.evaluation is None else {f"cmc{k}": v for k, v in row.evaluation.cmc.items()}),
                **({} if name not in self.against else {"minus_old": asdict(self.against[name])}),
            }
            for name, row in self.rows.items()
        }
        return {
            "verdict": asdict(self.verdict),
            "facts": asdict(self.facts) | {"gap_closed": self.facts.gap_closed},
            "measure": self.measure,
            "train_rows": self.train_rows,
            "test_rows": self.test_rows,
            "queries": self.queries,
            "split": self.split,
            "rows": rows,
            "learning": [asdict(point) for point in self.learning],
            "mixtures": [
                {"order": m.order, "auc": m.auc, "shares": m.shares.tolist(), "values": m.values.tolist()}
                for m in self.mixtures
            ],
            "cost": self.cost.to_json(),
            "flips": None if self.flips is None else asdict(self.flips),
            "threshold": None if self.shift is None else asdict(self.shift),
            "seconds": dict(self.seconds),
            "config": self.config.to_json(),
        }
