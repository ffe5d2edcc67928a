"""Closed-form maps between embedding spaces, one idea a file, as specs that the fused kernel runs.

Each is solved in float64 from the means and covariances of the pairs. The direction is that of the pairs: old -> new is
a gallery map; with new and old swapped it is a query map, new -> old, for a gallery that stays as it is.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from fct_fast.errors import ConfigError
from fct_fast.spec import TransformSpec
from fct_fast.training.maps.interpolation import fit_interpolation, interpolate
from fct_fast.training.maps.low_rank import Rank, fit_low_rank
from fct_fast.training.maps.procrustes import ProcrustesKind, fit_procrustes
from fct_fast.training.maps.ridge import fit_ridge
from fct_fast.training.pairs import Pairs

__all__ = ["METHODS", "NEEDS_STRENGTH", "MapMethod", "fit_interpolation", "fit_map", "interpolate"]

MapMethod = Literal["ridge", "affine", "procrustes", "procrustes_centred", "procrustes_whitened", "low_rank"]
METHODS: tuple[MapMethod, ...] = get_args(MapMethod)

NEEDS_STRENGTH: tuple[MapMethod, ...] = ("ridge", "procrustes_whitened", "low_rank")
"""Those that choose their strength on held-out rows where none is given."""

_KINDS: dict[str, ProcrustesKind] = {
    "procrustes": "plain",
    "procrustes_centred": "centred",
    "procrustes_whitened": "whitened",
}


def fit_map(
    method: str,
    pairs: Pairs,
    train: Tensor,
    held: Tensor,
    *,
    ridge_lambda: float | None = None,
    rank: Rank = None,
    normalize: bool = True,
) -> tuple[TransformSpec, dict[str, float]]:
    """The map of one of `METHODS`, solved on the training rows, and what was used: {"strength", "rank"} as they apply.

    "ridge"; "affine" (least squares: ridge of strength 0); "procrustes", "procrustes_centred", "procrustes_whitened"
    (orthogonal, with the least-squares scale); "low_rank" (ridge through a bottleneck). train, held: row numbers,
    int64. ridge_lambda: strength of "ridge", "low_rank" and "procrustes_whitened"; None is chosen on the held-out rows.
    rank: of "low_rank", see `fit_low_rank`; None is a quarter of the smaller dimension. A method ignores the options
    that it has no use for.

    Scale-free: rescaled inputs give the same rows, rescaled targets the same rows rescaled (normalize: the same).
    Raises ConfigError: an unknown method, a rank out of range, something to choose and no rows held out.
    """
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; the closed-form maps are {', '.join(METHODS)}")
    if method in ("ridge", "affine"):
        wanted = 0.0 if method == "affine" else ridge_lambda
        spec, strength = fit_ridge(pairs, train, held, strength=wanted, normalize=normalize)
        return spec, {"strength": strength}
    if method == "low_rank":
        spec, strength, chosen = fit_low_rank(pairs, train, held, strength=ridge_lambda, rank=rank, normalize=normalize)
        return spec, {"strength": strength, "rank": chosen}
    kind = _KINDS[method]
    spec, used = fit_procrustes(pairs, train, held, kind=kind, strength=ridge_lambda, normalize=normalize)
    return spec, {} if used is None else {"strength": used}
