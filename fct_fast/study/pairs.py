"""The arrays of a study, parted once into rows to fit on and rows to judge on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fct_fast.errors import ShapeError
from fct_fast.study.candidates import Candidate, fit_candidate
from fct_fast.study.config import StudyConfig
from fct_fast.training import FitResult
from fct_fast.training.pairs import split_rows
from fct_fast.upgrader import Upgrader

__all__ = ["StudyPairs"]

Array = npt.NDArray[Any]
MATES = 4  # rows of its class that a test row should find, in the middle


class StudyPairs:
    """arrays: "old", "side", "new" as given; marks: "labels" and "groups" [n] as they were given.

    train, test: row numbers. split: in words how they were parted. tested: float32 test rows of view 0, by name.
    Raises ShapeError where rows do not pair up.
    """

    def __init__(self, arrays: Mapping[str, Any], marks: Mapping[str, Any], config: StudyConfig) -> None:
        self._arrays = {name: x for name, x in arrays.items() if x is not None}
        self._marks = {name: np.asarray(x) for name, x in marks.items() if x is not None}
        self._config = config
        plain = {name: _plain(name, x) for name, x in self._arrays.items()}
        self.rows = len(plain["old"])
        for name, x in {**plain, **self._marks}.items():
            if len(x) != self.rows:
                raise ShapeError(f"rows must pair up one to one, but old has {self.rows} and {name} has {len(x)}")
        self.train, self.test, self.split = self._parted()
        self.tested = {name: np.ascontiguousarray(x[self.test], np.float32) for name, x in plain.items()}

    def mark(self, name: str) -> Array | None:
        """Labels or groups of the test rows."""
        return self._marks[name][self.test] if name in self._marks else None

    def fit(self, candidate: Candidate, rows: Array, config: StudyConfig | None = None, **options: Any) -> FitResult:
        """The candidate, fitted on some of the training rows."""
        arrays = {name: x[rows] if x.ndim < 3 else x[:, rows] for name, x in self._arrays.items()}
        marks = {name: x[rows] for name, x in self._marks.items()}
        return fit_candidate(candidate, arrays, marks, config or self._config, **options)

    def map(self, fitted: FitResult, candidate: Candidate) -> Array:
        """The test rows as the candidate maps them, by the kernels that a gallery is upgraded with."""
        up = Upgrader(fitted.transform, precision="fp32", scale_check="off")
        return np.asarray(up(*self._inputs(candidate)))

    def uncertainty(self, fitted: FitResult, candidate: Candidate) -> Array | None:
        """s of the test rows, where there is a head for it."""
        if not fitted.transform.uncertainty:
            return None
        up = Upgrader(fitted.transform, precision="fp32", scale_check="off")
        return np.asarray(up(*self._inputs(candidate), return_uncertainty=True)[1])

    def _inputs(self, candidate: Candidate) -> tuple[Array, Array | None]:
        first, *rest = candidate.reads
        return self.tested[first], self.tested[rest[0]] if rest else None

    def _parted(self) -> tuple[Array, Array, str]:
        rng, share = np.random.default_rng([self._config.fit.seed, 1]), self._config.test
        labels, groups = self._marks.get("labels"), self._marks.get("groups")
        if groups is not None:
            return *split_rows(self.rows, share, rng, groups=groups), "whole groups"
        if labels is None:
            return *split_rows(self.rows, share, rng), "rows"
        if np.median(np.unique(labels, return_counts=True)[1]) * share >= MATES:
            return *split_rows(self.rows, share, rng, labels=labels), "rows of every class"
        return *split_rows(self.rows, share, rng, groups=labels), "whole classes"


def _plain(name: str, x: Any) -> Array:
    """View 0 as an array [n, dim]."""
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu().float().numpy()
    x = np.asarray(x)
    if x.ndim not in (2, 3):
        raise ShapeError(f"{name} must be [rows, dim] or [views, rows, dim], got {list(x.shape)}")
    return x if x.ndim == 2 else np.asarray(x[0])
