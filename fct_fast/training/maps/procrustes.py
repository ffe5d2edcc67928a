"""Orthogonal Procrustes: the rotation that brings (old, side) closest to new; plain, centred, whitened.

With M = U S V^T (thin SVD) the answer is W = U V^T: orthogonal, and for x_dim != y_dim semi-orthogonal. Schönemann
(1966); whitened as in the comparison of the SLERP paper (arXiv 2609.39836), whose text states no formula, so ours is
below.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from fct_fast.spec import TransformSpec
from fct_fast.training.maps.linear import best_strength, linear_spec
from fct_fast.training.maps.moments import F64, Moments
from fct_fast.training.maps.ridge import shrunk_power
from fct_fast.training.pairs import Pairs

__all__ = ["ProcrustesKind", "fit_procrustes", "orthogonal"]

ProcrustesKind = Literal["plain", "centred", "whitened"]


def fit_procrustes(
    pairs: Pairs,
    train: Tensor,
    held: Tensor,
    *,
    kind: ProcrustesKind,
    strength: float | None = None,
    scale: bool = True,
    normalize: bool,
) -> tuple[TransformSpec, float | None]:
    """The map as a spec of one layer, and the strength of a whitened one.

    With x the concatenation of old and side, each divided by its RMS, y = new divided by its RMS, and means over the
    training rows and all views:

    - plain: y ~ s * x W, with W from the SVD of E[x^T y]; no bias.
    - centred: y ~ s * (x - E x) W + E y, with W from the SVD of the covariance Cxy.
    - whitened: y ~ s * (x - E x) Rx^-1 W Ry + E y, with W from the SVD of Rx^-1 Cxy Ry^-1, where Rx and Ry are the
      symmetric roots of Cx + strength * tr(Cx) / x_dim and of Cy + strength * tr(Cy) / y_dim. At strength 0 both sides
      have unit covariance, and the singular values are the canonical correlations; a large strength is the centred map.
      A direction without variance gets no weight. A strength of None is chosen from `STRENGTHS` by the squared error
      on the held-out rows; plain and centred have none.

    s is the least-squares factor of the map; scale=False leaves s = 1 and the rows in their own units, a rigid map for
    spaces of equal scale, such as unit rows.

    For x_dim <= y_dim the plain and centred map are the least-squares optimum over W with W W^T = 1; for x_dim > y_dim
    they maximise the agreement tr(W^T M) over W^T W = 1, which is the optimum after padding new with zeros, not the
    least-squares one (that has no closed form). Fewer rows than dimensions, or dead dimensions: W is orthogonal all the
    same, arbitrary in the directions of which the rows say nothing.

    Side-information makes sense in the whitened map, which weighs what the two share once. In the plain and centred one
    it costs what a rotation is chosen for: inner products of [old, side] are kept, no longer those of old alone, and
    old_dim + side_dim > new_dim leaves the least-squares optimum. A query map has no side-information at all.
    Raises ConfigError where a strength is to be chosen and no rows are held out.
    """
    moments = Moments.of(pairs, train, of_targets=kind == "whitened", rms_units=scale)
    centre = kind != "plain"

    def bias(weights: F64) -> F64:
        return moments.y_mean - moments.x_mean @ weights if centre else np.zeros_like(moments.y_mean)

    if kind != "whitened":
        xx, xy = moments.xx, moments.xy
        if not centre:
            xx = xx + np.outer(moments.x_mean, moments.x_mean)
            xy = xy + np.outer(moments.x_mean, moments.y_mean)
        weights = orthogonal(xy)
        weights = _least_squares_factor(weights, xx, xy) * weights if scale else weights
        return linear_spec(moments, [(weights, bias(weights))], normalize=normalize), None

    assert moments.yy is not None  # asked for above
    x_roots, y_roots = _Roots(moments.xx), _Roots(moments.yy)

    def solve(candidate: float) -> tuple[F64, F64]:
        whiten_x, whiten_y = x_roots.power(candidate, -0.5), y_roots.power(candidate, -0.5)
        weights = whiten_x @ orthogonal(whiten_x @ moments.xy @ whiten_y) @ y_roots.power(candidate, 0.5)
        weights = _least_squares_factor(weights, moments.xx, moments.xy) * weights if scale else weights
        return weights, bias(weights)

    strength = best_strength(pairs, held, moments, solve) if strength is None else strength
    return linear_spec(moments, [solve(strength)], normalize=normalize), strength


def orthogonal(m: F64) -> F64:
    """The (semi-)orthogonal W of m's shape with the largest tr(W^T m)."""
    u, _, vt = np.linalg.svd(m, full_matrices=False)
    return np.asarray(u @ vt, np.float64)


class _Roots:
    """Powers of a regularised covariance from one eigendecomposition."""

    def __init__(self, covariance: F64) -> None:
        self._values, self._vectors = np.linalg.eigh(covariance)

    def power(self, strength: float, power: float) -> F64:
        values = shrunk_power(self._values, strength, power)
        return np.asarray(self._vectors @ (values[:, None] * self._vectors.T), np.float64)


def _least_squares_factor(weights: F64, xx: F64, xy: F64) -> float:
    """The s that brings s * x @ weights closest to y."""
    length = float(np.sum(weights * (xx @ weights)))
    return float(np.sum(weights * xy)) / length if length > 0 else 1.0
