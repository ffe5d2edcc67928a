"""The compatibility matrix: queries of each space against the gallery of each space, on the same items.

Average Compatibility is as released with CL2R (iamcl2r, compatibility_metrics.py): of all pairs of a later model i and
an earlier model j, the share where M[i, j] > M[j, j], that is where later queries find more in the earlier gallery than
that gallery's own queries do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, NonFiniteError, ShapeError
from fct_fast.evaluation.rank import Evaluation, evaluate
from fct_fast.kernels.arrays import as_rows

__all__ = ["CompatibilityMatrix", "average_compatibility", "compatibility_matrix", "update_gain"]

F64 = npt.NDArray[np.float64]
Pair = tuple[str, str]
Measure = Literal["map"] | int


@dataclass(frozen=True)
class CompatibilityMatrix:
    """`dims`: width of each space, in the order given; `cells[query space, gallery space]`: an Evaluation, or None
    where the widths differ, so that the two cannot be compared.
    """

    dims: Mapping[str, int]
    cells: Mapping[Pair, Evaluation | None]

    def values(self, measure: Measure = 1) -> F64:
        """float64 [spaces, spaces], row = query space: CMC@measure, or mAP for "map"; NaN where there is no value.

        Raises ConfigError for a depth that was not measured.
        """
        values = np.full((len(self.dims), len(self.dims)), np.nan)
        number = {name: i for i, name in enumerate(self.dims)}
        for (query, gallery), cell in self.cells.items():
            if cell is not None:
                values[number[query], number[gallery]] = _value(cell, measure)
        return values

    def average_compatibility(self, measure: Measure = 1) -> float:
        """Average Compatibility with the spaces taken oldest first. See `average_compatibility`.

        A pair whose widths differ is incompatible. Raises ConfigError where a cell was left out of the measurement.
        """
        names = list(self.dims)
        for i, later in enumerate(names):
            for pair in [(later, later), *((later, earlier) for earlier in names[:i])]:
                if pair not in self.cells:
                    raise ConfigError(
                        f"the cell (query {pair[0]!r}, gallery {pair[1]!r}) was not measured; average compatibility "
                        f"needs every later space against every earlier one"
                    )
        return average_compatibility(self.values(measure))

    def to_json(self) -> dict[str, Any]:
        """{"spaces": [{"name", "dim"}], "cells": [{"query", "gallery", "cmc", "map", "queries", "skipped"}]}; the
        metrics of a cell are None where the widths differ.
        """
        cells = []
        for (query, gallery), cell in self.cells.items():
            cells.append(
                {
                    "query": query,
                    "gallery": gallery,
                    "cmc": None if cell is None else {str(depth): share for depth, share in cell.cmc.items()},
                    "map": None if cell is None else cell.map,
                    "queries": None if cell is None else cell.queries,
                    "skipped": None if cell is None else cell.skipped,
                }
            )
        return {"spaces": [{"name": name, "dim": dim} for name, dim in self.dims.items()], "cells": cells}


def compatibility_matrix(
    spaces: Mapping[str, Any],
    labels: npt.ArrayLike,
    pairs: Sequence[Pair] | None = None,
    metric: Literal["cosine", "ip", "l2"] = "cosine",
    k: int | Sequence[int] = (1, 5),
    threads: int | None = None,
) -> CompatibilityMatrix:
    """Evaluate query spaces against gallery spaces: spaces {name: rows [n, dim]}, oldest first; row i is one item.

    labels [n]. pairs: (query space, gallery space) to measure, by default all. A query's own item is left out of its
    ranking. Raises ShapeError where the spaces differ in rows, ConfigError for a pair of an unknown space, and as
    `evaluate` does.
    """
    rows = {name: as_rows(space, f"space {name!r}") for name, space in spaces.items()}
    if not rows:
        raise ShapeError("there are no spaces to compare; give at least one")
    counts = {name: int(space.shape[0]) for name, space in rows.items()}
    if len(set(counts.values())) > 1:
        raise ShapeError(f"the spaces have {counts} rows; row i of each is the same item")
    wanted = [(query, gallery) for query in rows for gallery in rows] if pairs is None else list(pairs)
    for name in {name for pair in wanted for name in pair}:
        if name not in rows:
            raise ConfigError(f"pairs name a space {name!r}; the spaces are {list(rows)}")
    cells: dict[Pair, Evaluation | None] = {}
    for query, gallery in wanted:
        fits = rows[query].shape[1] == rows[gallery].shape[1]
        cells[query, gallery] = (
            evaluate(rows[query], rows[gallery], labels, metric=metric, exclude_self=True, k=k, threads=threads)
            if fits
            else None
        )
    return CompatibilityMatrix({name: int(space.shape[1]) for name, space in rows.items()}, cells)


def average_compatibility(values: npt.ArrayLike) -> float:
    """1 - share of later / earlier pairs that violate M[i, j] > M[j, j]: values float [t, t], M[query, gallery], oldest
    first. 1.0 for a single space.

    NaN below the diagonal (spaces that cannot be compared) is a violation. Raises ShapeError for another shape,
    NonFiniteError for NaN on the diagonal.
    """
    matrix = np.asarray(values, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ShapeError(f"values have shape {list(matrix.shape)}; expected [spaces, spaces]")
    own = np.diagonal(matrix)
    if np.isnan(own).any():
        raise NonFiniteError(f"values[{np.isnan(own).argmax()}] has NaN on the diagonal, a space against itself")
    later, earlier = np.tril_indices(len(matrix), -1)
    return float((matrix[later, earlier] > own[earlier]).mean()) if len(later) else 1.0


def update_gain(old: float, crossed: float, new: float) -> float:
    """(crossed - old) / (new - old): the share of re-embedding's gain that the upgrade brings.

    old: old queries on the old gallery; crossed: new queries on the old or upgraded gallery; new: new queries on the
    re-embedded gallery, by the best model that is free of any compatibility constraint. Below 0 where the upgrade is a
    loss. NaN where new is not above old: there is no gain to have a share of.
    """
    return (crossed - old) / (new - old) if new > old else float("nan")


def _value(cell: Evaluation, measure: Measure) -> float:
    if measure == "map":
        return cell.map
    if measure not in cell.cmc:
        raise ConfigError(f"measure is {measure!r}; this matrix has 'map' and CMC at {sorted(cell.cmc)}")
    return cell.cmc[measure]
