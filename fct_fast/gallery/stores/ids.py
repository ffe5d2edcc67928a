"""Ids of rows: checked to be unique, and looked up when two galleries are joined by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import StoreError

__all__ = ["match_ids", "require_unique", "shown"]

Ids = npt.NDArray[Any]


def require_unique(ids: Ids, where: str) -> None:
    """Raise StoreError naming the first id that `ids` [n] of the gallery `where` hold twice."""
    if len(ids) > 1 and (ids[1:] > ids[:-1]).all():  # the usual case needs no sorting
        return
    ordered = np.sort(ids)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        value = ordered[twice[0]]
        first, second = np.flatnonzero(ids == value)[:2].tolist()
        raise StoreError(
            f"{where} holds the id {shown(value)} twice, in rows {first} and {second}; ids must be unique, so that no "
            f"two rows are mixed up"
        )


def match_ids(wanted: Ids, ids: Ids, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each id of `wanted` [m] its position in `ids` [n], -1 where it is not there. order: argsort of ids."""
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    places = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    found = order[places]
    return np.where(ids[found] == wanted, found, -1)


def shown(value: Any) -> str:
    """An id as it reads in a message."""
    return f"{value.item() if isinstance(value, np.generic) else value!r}"[:80]
