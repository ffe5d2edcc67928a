"""Ridge regression from (old, side) to new, in closed form and float64; least squares at strength 0."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fct_fast.spec import TransformSpec
from fct_fast.training.maps.linear import best_strength, linear_spec
from fct_fast.training.maps.moments import F64, Moments
from fct_fast.training.pairs import Pairs

__all__ = ["RidgePath", "fit_ridge", "shrunk_power"]

_DEAD = 1e-12  # a direction with less than this share of the mean variance has none


class RidgePath:
    """The ridge solutions of all strengths from one eigendecomposition.

    Minimises |y - x @ B - b|^2 / n + strength * v * |B|^2, where v is the mean variance of x.
    """

    def __init__(self, moments: Moments) -> None:
        self._values, self._vectors = np.linalg.eigh(moments.xx)
        self._projected: F64 = self._vectors.T @ moments.xy

    def weights(self, strength: float) -> F64:
        """B, [x_dim, y_dim]."""
        inverse = shrunk_power(self._values, strength, -1)
        return np.asarray(self._vectors @ (inverse[:, None] * self._projected), np.float64)

    def explained(self, strength: float) -> F64:
        """B.T @ (xx + strength * v) @ B, [y_dim, y_dim]: what the solution explains of the covariance of y."""
        inverse = shrunk_power(self._values, strength, -1)
        return np.asarray(self._projected.T @ (inverse[:, None] * self._projected), np.float64)


def fit_ridge(
    pairs: Pairs, train: Tensor, held: Tensor, *, strength: float | None, normalize: bool
) -> tuple[TransformSpec, float]:
    """The ridge map with intercept, as a spec without hidden layers, and the strength that was used.

    Minimises |new - (x @ B + b)|^2 / n + strength * v * |B|^2 over the training rows and all views, where x is the
    concatenation of old and side, each divided by its RMS, and v is the mean variance of x. A strength of None is
    chosen from `STRENGTHS` by the squared error on the held-out rows. Strength 0 is least squares; where that has many
    solutions, as with fewer rows than dimensions, the smallest.
    Raises ConfigError where a strength is to be chosen and no rows are held out.
    """
    moments = Moments.of(pairs, train)
    path = RidgePath(moments)

    def solve(candidate: float) -> tuple[F64, F64]:
        weights = path.weights(candidate)
        return weights, moments.y_mean - moments.x_mean @ weights

    strength = best_strength(pairs, held, moments, solve) if strength is None else strength
    return linear_spec(moments, [solve(strength)], normalize=normalize), strength


def shrunk_power(eigenvalues: F64, strength: float, power: float) -> F64:
    """(eigenvalues + strength * their mean) ** power; 0 for a direction that has no variance also then, so that it gets
    no weight."""
    unit = float(np.maximum(eigenvalues, 0).mean()) or 1.0
    shrunk = np.maximum(eigenvalues, 0) + strength * unit
    return np.asarray(np.power(shrunk, power, out=np.zeros_like(shrunk), where=shrunk > _DEAD * unit), np.float64)
