"""The linear baseline: ridge regression from (old, side) to new, in closed form and float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fct_fast.spec import Branch, Layer, TransformSpec
from fct_fast.training.pairs import CHUNK_ROWS, Pairs, chunks

__all__ = ["RIDGE_GRID", "fit_ridge"]

RIDGE_GRID = tuple(10.0**e for e in range(-7, 3))
"""The strengths that are tried, in units of the inputs' mean variance."""

F64 = npt.NDArray[np.float64]


def fit_ridge(
    pairs: Pairs, train: Tensor, held: Tensor, *, strength: float | None, normalize: bool
) -> tuple[TransformSpec, float]:
    """The ridge map with intercept, as a spec without hidden layers, and the strength that was used.

    Minimises |new - (x @ B + b)|^2 / n + strength * v * |B|^2 over the training rows and all views, where x is the
    concatenation of old and side, each divided by its RMS, and v is the mean variance of x. A strength of None is
    chosen from `RIDGE_GRID` by the squared error on the held-out rows.
    """
    rms = pairs.rms(train)
    scale = {name: 1 / (rms[name] or 1.0) for name in rms}
    n, x_sum, y_sum, xx, xy = _moments(pairs, train, scale)
    x_mean, y_mean = x_sum / n, y_sum / n
    eigenvalues, vectors = np.linalg.eigh(xx / n - np.outer(x_mean, x_mean))
    eigenvalues = np.maximum(eigenvalues, 0)
    projected = vectors.T @ (xy / n - np.outer(x_mean, y_mean))
    unit = float(eigenvalues.mean()) or 1.0

    def solve(candidate: float) -> F64:
        # A direction without variance gets no weight, also at strength 0.
        shrunk = eigenvalues + candidate * unit
        inverse = np.divide(1, shrunk, out=np.zeros_like(shrunk), where=shrunk > 1e-12 * unit)
        return np.asarray(vectors @ (inverse[:, None] * projected), np.float64)

    if strength is None:
        strength = min(RIDGE_GRID, key=lambda s: _squared_error(pairs, held, scale, solve(s), x_mean, y_mean))
    weights = solve(strength)
    bias = y_mean - x_mean @ weights
    dims = {name: int(x.shape[2]) for name, x in pairs.named()}
    inputs = [name for name in ("old", "side") if name in dims]
    weights *= np.repeat([scale[name] for name in inputs], [dims[name] for name in inputs])[:, None]
    spec = TransformSpec(
        old_dim=dims["old"],
        side_dim=dims.get("side", 0),
        new_dim=dims["new"],
        branches=(Branch("old", ()), Branch("side", ())) if "side" in dims else (Branch("old", ()),),
        trunk=(Layer(np.ascontiguousarray(weights.T, np.float32), bias.astype(np.float32), relu=False),),
        normalize=normalize,
    )
    return spec, strength


def _inputs(pairs: Pairs, rows: Tensor, view: int, scale: dict[str, float]) -> tuple[F64, F64]:
    old, side, new = pairs.batch(rows, view)
    parts = [old.double() * scale["old"]] + ([] if side is None else [side.double() * scale["side"]])
    return torch.cat(parts, dim=1).cpu().numpy(), new.double().cpu().numpy()


def _moments(pairs: Pairs, rows: Tensor, scale: dict[str, float]) -> tuple[int, F64, F64, F64, F64]:
    """Row count and the sums of x, y, x x^T and x y^T over rows and views."""
    n, x_sum, y_sum, xx, xy = 0, *(np.zeros(()) for _ in range(4))
    for view in range(pairs.views):
        for part in chunks(rows, CHUNK_ROWS):
            x, y = _inputs(pairs, part, view, scale)
            n += len(x)
            x_sum, y_sum, xx, xy = x_sum + x.sum(axis=0), y_sum + y.sum(axis=0), xx + x.T @ x, xy + x.T @ y
    return n, x_sum, y_sum, xx, xy


def _squared_error(
    pairs: Pairs, rows: Tensor, scale: dict[str, float], weights: F64, x_mean: F64, y_mean: F64
) -> float:
    total = 0.0
    for part in chunks(rows, CHUNK_ROWS):
        x, y = _inputs(pairs, part, 0, scale)
        total += float(np.square((x - x_mean) @ weights + y_mean - y).sum())
    return total
