"""Linear maps between the units of `Moments`: as a spec of the arrays' own units, and their error on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from fct_fast.errors import ConfigError
from fct_fast.spec import Branch, Layer, TransformSpec
from fct_fast.training.maps.moments import F64, Moments
from fct_fast.training.pairs import Pairs

__all__ = ["STRENGTHS", "best_strength", "linear_spec", "squared_error"]

STRENGTHS = tuple(10.0**e for e in range(-7, 3))
"""The strengths of a regularisation that are tried, in units of the mean variance of what is regularised."""


def linear_spec(moments: Moments, layers: Sequence[tuple[F64, F64]], *, normalize: bool) -> TransformSpec:
    """The spec of y = x @ weights + bias, layer after layer; weights [in, out], bias [out].

    The layers are those between x and y as `Moments` scales them; the scales are folded into the first and last, so the
    spec reads and writes rows as they were given. Raises NonFiniteError where a weight leaves the range of float32.
    """
    dims, scale = moments.dims, moments.scale
    inputs = [name for name in ("old", "side") if name in dims]
    folded = list(layers)
    weights, bias = folded[0]
    folded[0] = np.repeat([scale[name] for name in inputs], [dims[name] for name in inputs])[:, None] * weights, bias
    weights, bias = folded[-1]
    folded[-1] = weights / scale["new"], bias / scale["new"]
    with np.errstate(over="ignore"):  # the spec refuses what has become infinite
        trunk = tuple(
            Layer(np.ascontiguousarray(weights.T, np.float32), bias.astype(np.float32), relu=False)
            for weights, bias in folded
        )
    return TransformSpec(
        old_dim=dims["old"],
        side_dim=dims.get("side", 0),
        new_dim=dims["new"],
        branches=(Branch("old", ()), Branch("side", ())) if "side" in dims else (Branch("old", ()),),
        trunk=trunk,
        normalize=normalize,
    )


def squared_error(held: Moments, weights: F64, bias: F64) -> float:
    """Mean of |x @ weights + bias - y|^2 over the rows of `held`, in its units.

    From the moments, as many strengths are tried on the same rows; rounding makes errors below 1e-12 of y's variance
    alike, where the choice no longer matters.
    """
    assert held.yy is not None  # Moments.held_out has them
    spread = float(np.sum(weights * (held.xx @ weights - 2 * held.xy))) + float(np.trace(held.yy))
    return spread + float(np.square(held.x_mean @ weights + bias - held.y_mean).sum())


def best_strength(pairs: Pairs, rows: Tensor, moments: Moments, solve: Callable[[float], tuple[F64, F64]]) -> float:
    """The strength of `STRENGTHS` whose (weights, bias) has the least squared error on held-out rows, view 0.

    Raises ConfigError where there are no such rows.
    """
    require_held_out(rows, "strength")
    held = moments.held_out(pairs, rows)
    return min(STRENGTHS, key=lambda strength: squared_error(held, *solve(strength)))


def require_held_out(held: Tensor, what: str) -> None:
    """Raises ConfigError where there are no held-out rows to choose `what` on."""
    if len(held) == 0:
        raise ConfigError(
            f"the {what} of a map is chosen on held-out rows, and there are too few; give it, or hold out more rows"
        )
