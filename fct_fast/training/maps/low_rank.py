"""Reduced-rank ridge regression: the best linear map through a bottleneck, in closed form.

The low-rank affine map of Drift-Adapter (EMNLP 2025) is trained by gradient descent at a fixed rank of 64; this one is
the exact optimum (Izenman 1975; with the ridge term Mukherjee and Zhu 2011), at a rank in proportion to the dimensions.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from torch import Tensor

from fct_fast.errors import ConfigError
from fct_fast.spec import TransformSpec
from fct_fast.training.maps.linear import STRENGTHS, linear_spec, require_held_out
from fct_fast.training.maps.moments import F64, Moments
from fct_fast.training.maps.ridge import RidgePath
from fct_fast.training.pairs import Pairs

__all__ = ["RANK_SHARE", "Rank", "fit_low_rank"]

Rank: TypeAlias = int | float | Literal["held_out"] | None

RANK_SHARE = 0.25
"""The rank where none is given, as a share of the smaller dimension."""

_SAME = 1e-9  # ranks whose errors differ by less than this share of the targets' variance are as good


def fit_low_rank(
    pairs: Pairs,
    train: Tensor,
    held: Tensor,
    *,
    strength: float | None,
    rank: Rank = None,
    normalize: bool,
) -> tuple[TransformSpec, float, int]:
    """The ridge problem (see `fit_ridge`) over all maps x @ B + b with B of at most the given rank.

    rank: an int is the rank; a float in (0, 1] the share of the smaller of x_dim (old_dim + side_dim) and new_dim; None
    is `RANK_SHARE` of it; "held_out" is chosen. The optimum is the ridge solution, projected onto the leading
    eigenvectors of what it explains. A strength of None, a rank of "held_out" or both are chosen by the squared error
    on the held-out rows: the best pair, and of ranks that do equally well the smallest.

    Returns (spec, strength, rank). The spec has two linear layers with the bottleneck between them, or one where that
    is fewer weights. Raises ConfigError: a rank out of range; something to choose and no rows held out.
    """
    moments = Moments.of(pairs, train)
    x_dim, y_dim = moments.xy.shape
    most = min(x_dim, y_dim)
    ranks = np.arange(1, most + 1) if rank == "held_out" else np.array([_rank(rank, most)])
    apart: Moments | None = None
    if strength is None or rank == "held_out":
        require_held_out(held, "strength or rank")
        apart = moments.held_out(pairs, held)
    path = RidgePath(moments)

    best: tuple[float, float, int, F64] | None = None
    for candidate in STRENGTHS if strength is None else (strength,):
        directions = np.linalg.eigh(path.explained(candidate))[1][:, ::-1]
        chosen, error = int(ranks[0]), 0.0
        if apart is not None:
            errors, spread = _errors_by_rank(moments, apart, path.weights(candidate), directions)
            errors = errors[ranks]
            chosen = int(ranks[np.argmax(errors <= errors.min() + _SAME * spread)])
            error = float(errors.min())
        if best is None or error < best[0]:
            best = error, candidate, chosen, directions[:, :chosen]
    assert best is not None
    _, strength, chosen, directions = best

    down = path.weights(strength) @ directions
    layers = [(down, -moments.x_mean @ down), (directions.T, moments.y_mean)]
    if chosen * (x_dim + y_dim) >= x_dim * y_dim:
        whole = down @ directions.T
        layers = [(whole, moments.y_mean - moments.x_mean @ whole)]
    return linear_spec(moments, layers, normalize=normalize), strength, chosen


def _rank(rank: Rank, most: int) -> int:
    rank = RANK_SHARE if rank is None else rank
    if type(rank) is int and 1 <= rank <= most:
        return rank
    if type(rank) is float and 0 < rank <= 1:
        return max(1, round(rank * most))
    raise ConfigError(
        f"rank is {rank!r}; give a whole number from 1 to {most}, a share above 0 and up to 1.0, or 'held_out'"
    )


def _errors_by_rank(moments: Moments, held: Moments, weights: F64, directions: F64) -> tuple[F64, float]:
    """Mean squared error on `held` with the first 0, 1, ... y_dim of the directions kept, and that of the mean alone.

    A direction that is kept costs what its prediction misses, one that is dropped the target itself, so all ranks come
    from the errors of the single directions.
    """
    assert held.yy is not None  # Moments.held_out has them
    weights = weights @ directions
    target = (held.y_mean - moments.y_mean) @ directions
    spread = np.sum(directions * (held.yy @ directions), axis=0)
    dropped = spread + np.square(target)
    kept = np.sum(weights * (held.xx @ weights - 2 * held.xy @ directions), axis=0) + spread
    kept += np.square((held.x_mean - moments.x_mean) @ weights - target)
    errors = np.concatenate([[0], kept.cumsum()]) + np.concatenate([dropped[::-1].cumsum()[::-1], [0]])
    return errors, float(dropped.sum())
