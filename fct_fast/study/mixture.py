"""What a gallery is worth of which a share is re-embedded: the choice of that share, and of the rows that go first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.evaluation import backfill_curve
from fct_fast.evaluation.order import density_order, random_order, residual_order, uncertainty_order
from fct_fast.evaluation.overlap import neighbours, shared
from fct_fast.study.judge import TestRows

__all__ = ["POINTS", "Mixture", "chosen_order", "mixtures", "orders", "share_needed"]

RANDOM = "random order"
POINTS = 22  # of a curve, both ends included (FastFill, ICLR 2023)

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """values [POINTS]: the mean that is judged, with shares [POINTS] of the rows re-embedded, in an order."""

    order: str
    shares: F64
    values: F64

    @property
    def auc(self) -> float:
        """The plain mean over the points, as FastFill's code has it."""
        return float(self.values.mean())


def orders(upgraded: Any, linear: Any, s: Any, seed: int) -> dict[str, npt.NDArray[np.int64]]:
    """Which rows to re-embed first, by what is known without the new model: the best founded one first.

    upgraded, linear: the rows as h and as a linear map give them; s: the predicted uncertainty, or None.
    """
    found = {} if s is None else {"uncertainty": uncertainty_order(s)}
    found |= {"disagreement with the linear map": residual_order(upgraded, linear)} if linear is not None else {}
    return found | {"sparse rows first": density_order(upgraded), RANDOM: random_order(len(upgraded), seed)}


def mixtures(test: TestRows, upgraded: Any, orders: Mapping[str, npt.NDArray[np.int64]]) -> list[Mixture]:
    """A curve for each order; every row that is re-embedded stays so."""
    return [_labelled(test, upgraded, *pair) if test.labels is not None else _plain(test, upgraded, *pair)
            for pair in orders.items()]  # fmt: skip


def chosen_order(curves: list[Mixture]) -> Mixture:
    """The best founded order, the first one, unless chance does as well."""
    chance = next(curve for curve in curves if curve.order == RANDOM)
    return curves[0] if curves[0].auc > chance.auc else chance


def share_needed(curve: Mixture, least: float) -> float:
    """The share of rows to re-embed for a mean of at least `least`, between the points by a straight line; 1 where no
    smaller one does."""
    reached = np.flatnonzero(curve.values >= least)
    if not reached.size:
        return 1.0
    at = int(reached[0])
    if at == 0:
        return 0.0
    low, high = curve.values[at - 1], curve.values[at]
    part = (least - low) / (high - low)
    return float(curve.shares[at - 1] + part * (curve.shares[at] - curve.shares[at - 1]))


def _labelled(test: TestRows, upgraded: Any, name: str, order: npt.NDArray[np.int64]) -> Mixture:
    curve = backfill_curve(test.new, upgraded, test.new, order, test.labels, exclude_self=True, points=POINTS)
    return Mixture(name, np.asarray(curve.shares), np.asarray(curve.map))


def _plain(test: TestRows, upgraded: Any, name: str, order: npt.NDArray[np.int64]) -> Mixture:
    n, mixed = len(order), np.array(upgraded, np.float32)
    truth, values, done = neighbours(test.new, test.new, test.k), [], 0
    shares = np.arange(POINTS) / (POINTS - 1)
    for share in shares:
        stop = int(share * n)
        mixed[order[done:stop]] = test.new[order[done:stop]]
        done = stop
        values.append(shared(truth, neighbours(test.new, mixed, test.k)).mean())
    return Mixture(name, shares, np.array(values))
