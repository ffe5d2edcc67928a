"""Query interpolation: a query between the old model's and the new model's, for a gallery that stays in the old space.

A query map brings new queries to the old space; mixing its result with the old model's own query keeps what the old
model knew (SLERP backward compatibility, arXiv 2609.39836). NLERP is unit(share * mapped + (1 - share) * old) of unit
vectors. It is linear up to the last normalisation, so a spec can hold it. SLERP is not: its factors sin(share * angle)
and sin((1 - share) * angle) depend on each row's angle. It points where the NLERP of share
sin(share * angle) / (sin(share * angle) + sin((1 - share) * angle)) points, so the two differ by the share alone.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fct_fast.errors import ConfigError, ShapeError
from fct_fast.evaluation import evaluate
from fct_fast.search import topk
from fct_fast.spec import Branch, Layer, TransformSpec
from fct_fast.training.maps.linear import require_held_out
from fct_fast.training.maps.moments import F64
from fct_fast.training.pairs import Pairs

__all__ = ["SHARES", "fit_interpolation", "interpolate"]

SHARES = tuple(i / 10 for i in range(11))
"""The shares that are tried."""

NORM_ROWS = 16_384  # rows that the mean norms are measured on, evenly spaced
CHOICE_ROWS = 10_000  # held-out rows that the share is chosen on, evenly spaced
NEIGHBOURS = 10


def interpolate(
    query_map: TransformSpec, share: float, *, mapped_norm: float = 1.0, old_norm: float = 1.0
) -> TransformSpec:
    """The spec of unit(share * mapped / mapped_norm + (1 - share) * old_query / old_norm).

    query_map: new -> old space, one branch, no side-information. The result reads the new model's query as `old`
    [n, query_map.old_dim] and the old model's query as `side` [n, query_map.new_dim], and returns unit rows of the old
    space. `mapped` is the map's output before normalisation, as a spec normalises at its end only; so the norms are the
    mean ones of the two, and the mix is NLERP exactly where each row has its mean norm (unit queries, an orthogonal
    map), else with a share that varies with the row's norm. An uncertainty row of the map is left out.
    Raises ConfigError: a share outside [0, 1], a norm that is not above 0, a map that reads side-information or has
    several branches.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"share is {share!r}; it is the part of the mapped query, from 0 to 1")
    if not (0 < mapped_norm < math.inf and 0 < old_norm < math.inf):
        raise ConfigError(f"mapped_norm is {mapped_norm!r} and old_norm {old_norm!r}; mean norms are above 0")
    if query_map.side_dim or len(query_map.branches) != 1:
        raise ConfigError(
            f"a query map that can be interpolated has one branch and no side-information; this one has "
            f"{len(query_map.branches)} and side_dim {query_map.side_dim}"
        )
    *hidden, last = query_map.branches[0].layers + query_map.trunk
    dim = query_map.new_dim
    mapped = last.weight[:dim].astype(np.float64) * (share / mapped_norm)
    kept = np.eye(dim) * ((1 - share) / old_norm)
    mix = Layer(
        np.concatenate([mapped, kept], axis=1).astype(np.float32),
        (last.bias[:dim].astype(np.float64) * (share / mapped_norm)).astype(np.float32),
        relu=False,
    )
    return replace(
        query_map,
        side_dim=dim,
        branches=(Branch("old", tuple(hidden)), Branch("side", ())),
        trunk=(mix,),
        normalize=True,
        uncertainty=False,
    )


def fit_interpolation(
    query_map: TransformSpec,
    pairs: Pairs,
    train: Tensor,
    held: Tensor,
    *,
    share: float | None = None,
    classes: npt.NDArray[np.int64] | None = None,
) -> tuple[TransformSpec, dict[str, float]]:
    """`interpolate` with the mean norms of the training rows, and {"share", "mapped_norm", "old_norm"}.

    pairs: those that the query map was fitted on, so `pairs.old` are rows of the new model and `pairs.new` of the old
    one. A share of None is the best of `SHARES` on the held-out rows, view 0, searched in the old rows, each left out
    of its own neighbours: by mAP with classes, one for each row of the pairs, else by the share of its 10 nearest
    neighbours in the new space that a query finds (Drift-Adapter's ground truth), which needs no labels. Of equally
    good shares the smallest. Share 0 means that the new model's query adds nothing.
    Raises ConfigError: as `interpolate`; fewer than 3 held-out rows to choose on. ShapeError: a map of other
    dimensions than the pairs.
    """
    if query_map.side_dim or pairs.side is not None:
        raise ConfigError("a query map has no side-information; leave side out of its pairs")
    if (query_map.old_dim, query_map.new_dim) != (pairs.old.shape[2], pairs.new.shape[2]):
        raise ShapeError(
            f"the query map is {query_map.old_dim} -> {query_map.new_dim}, but the pairs are {pairs.old.shape[2]} -> "
            f"{pairs.new.shape[2]}; give pairs (new model's rows, old model's rows)"
        )
    _, mapped, old = _rows(query_map, pairs, train, NORM_ROWS)
    norms = {"mapped_norm": _mean_norm(mapped), "old_norm": _mean_norm(old)}
    if share is None:
        share = _best_share(query_map, pairs, held, classes, norms)
    return interpolate(query_map, share, **norms), {"share": share, **norms}


def _best_share(
    query_map: TransformSpec,
    pairs: Pairs,
    held: Tensor,
    classes: npt.NDArray[np.int64] | None,
    norms: dict[str, float],
) -> float:
    require_held_out(held[2:], "share")
    new, mapped, old = _rows(query_map, pairs, held, CHOICE_ROWS)
    gallery = old.astype(np.float32)
    if classes is None:
        k = min(NEIGHBOURS, len(gallery) - 1)
        truth = _neighbours(new.astype(np.float32), new.astype(np.float32), k)
    else:
        labels = classes[_spaced(held, CHOICE_ROWS).cpu().numpy()]

    def quality(share: float) -> float:
        mix = share * mapped / norms["mapped_norm"] + (1 - share) * old / norms["old_norm"]
        queries = mix.astype(np.float32)
        if classes is not None:
            return evaluate(queries, gallery, labels, exclude_self=True).map
        found = _neighbours(queries, gallery, k)
        return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(truth, found, strict=True)])) / k

    return max(SHARES, key=quality)


def _rows(query_map: TransformSpec, pairs: Pairs, rows: Tensor, most: int) -> tuple[F64, F64, F64]:
    """float64 (new, mapped before normalisation, old) of at most `most` of the rows, view 0."""
    new, _, old = (None if x is None else x.double().cpu().numpy() for x in pairs.batch(_spaced(rows, most)))
    assert new is not None
    assert old is not None
    return new, query_map.apply_float64(new, normalize=False)[:, : query_map.new_dim], old


def _spaced(rows: Tensor, most: int) -> Tensor:
    return rows[:: max(1, math.ceil(len(rows) / most))]


def _mean_norm(x: F64) -> float:
    return float(np.linalg.norm(x, axis=1).mean())


def _neighbours(queries: npt.NDArray[np.float32], gallery: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Row numbers of the k nearest gallery rows by cosine, [n, k], query i being row i, which is left out."""
    ids = np.asarray(topk(queries, gallery, k + 1)[1])
    others = ids != np.arange(len(ids))[:, None]
    others[others.all(axis=1), -1] = False  # the row itself was not among them: the last one goes instead
    nearest: npt.NDArray[np.int64] = ids[others].reshape(-1, k)
    return nearest
