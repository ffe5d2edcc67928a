"""DemoResult: everything that a table, a JSON object or a report needs to know about a run of the demo."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.demo.recipe import Recipe

__all__ = ["ROWS", "DemoResult", "Hit", "PictureRow", "Row"]

ROWS: dict[str, tuple[str, str]] = {
    "naive": ("new model's queries, old gallery", "what happens when the model is swapped and nothing else is done"),
    "old": ("old model's queries, old gallery", "where the gallery stands today"),
    "side": ("upgraded from side-information alone", "control: the same network, without the old embedding"),
    "linear": ("upgraded by a linear map of old", "control: ridge regression"),
    "linear_side": ("upgraded by a linear map of old and side", "control: ridge regression on both"),
    "h": ("upgraded by h, without side-information", "the paper's network on the old embedding alone"),
    "h_side": ("upgraded by h, with side-information", "Forward Compatible Training, backfilled by the engine"),
    "new": ("new model's queries, re-embedded gallery", "the goal, at the price of reading all raw data again"),
}
"""Row of the table -> (its title, what it says). In the order in which they are shown."""


@dataclass(frozen=True)
class Row:
    """Retrieval metrics, fractions in [0, 1]."""

    cmc1: float
    cmc5: float
    map: float


@dataclass(frozen=True)
class Hit:
    """One picture: grey uint8 [height, width], ink is bright; its class; `right` where that is the query's class."""

    image: npt.NDArray[np.uint8]
    label: str
    right: bool


@dataclass(frozen=True)
class PictureRow:
    """A query and what it finds, best first, itself left out: in the old gallery, and after the upgrade."""

    query: Hit
    seen: bool
    old: tuple[Hit, ...]
    upgraded: tuple[Hit, ...]


@dataclass(frozen=True)
class DemoResult:
    """What a run of the demo found.

    rows: by the keys of ROWS, over all queries; rows_seen, rows_unseen: the same over the queries whose class the old
    model was trained on, and over the others; the gallery is the whole one in all three. gallery_source: where the
    gallery's items are from. stages: seconds by stage, in order. losses: by "old", "side", "new" (one a step) and by
    "fit side", "fit h", "fit h_side" (one an epoch). overlap: share of the true new-space top-10 neighbours that h_side
    keeps. level: the kernel's CPU level. backfill, verification: as the engine reports them. seconds: of the whole run.
    artifacts: name -> file, where an output folder was given.
    """

    recipe: Recipe
    seed: int
    gallery_source: str
    class_names: tuple[str, ...]
    pairs: int
    gallery_rows: int
    rows: dict[str, Row]
    rows_seen: dict[str, Row]
    rows_unseen: dict[str, Row]
    overlap: float
    kernel_rows_per_s: float
    torch_rows_per_s: float
    level: str
    threads: int
    backfill: dict[str, Any]
    verification: dict[str, Any]
    pictures: tuple[PictureRow, ...]
    losses: dict[str, list[float]]
    stages: dict[str, float]
    seconds: float
    artifacts: dict[str, Path]

    @property
    def old_over_new(self) -> float:
        """mAP of the old model over that of the new one."""
        return self.rows["old"].map / self.rows["new"].map

    @property
    def gap_closed(self) -> float:
        """Share of the mAP between old and new that h with side-information wins."""
        return self.gap_closed_by("h_side")

    def gap_closed_by(self, name: str) -> float:
        """The same for any row; NaN where old and new are level."""
        old, new = self.rows["old"].map, self.rows["new"].map
        return (self.rows[name].map - old) / (new - old) if new != old else float("nan")

    def to_json(self, report: Path | None = None) -> dict[str, Any]:
        """The object that `fct-fast demo --json` prints."""
        return {
            "rows": {name: asdict(row) for name, row in self.rows.items()},
            "old_over_new": self.old_over_new,
            "gap_closed": self.gap_closed,
            "kernel_rows_per_s": self.kernel_rows_per_s,
            "torch_rows_per_s": self.torch_rows_per_s,
            "seconds": self.seconds,
            "report": None if report is None else str(report),
        }
