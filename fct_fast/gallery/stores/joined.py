"""A source whose side-information lives in a gallery of its own, joined to the old embeddings by row or by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, ShapeError, StoreError
from fct_fast.gallery.stores.ids import match_ids, shown
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.protocol import Array, Capabilities, Rows, Shard, Source
from fct_fast.space import SpaceFingerprint

__all__ = ["JoinedSource"]


class JoinedSource:
    """Rows, ids and payload of `old`, with the vectors of `side` as side-information; see `protocol.Source`.

    by "row": both have as many rows, in one order; where both have ids, these must agree. by "id": each id of `old` is
    looked up in `side`, which may hold more rows, in any order. Raises ShapeError, StoreError or ConfigError where the
    two do not pair up.
    """

    def __init__(self, old: Source, side: Source, by: Literal["row", "id"]) -> None:
        self._old, self._side, self._by = old, side, by
        self._names = old.places["old"], side.places["old"]
        ids, others = old.all_ids(), side.all_ids()
        self._positions = None if by == "row" else self._lookup(ids, others)
        if by == "row":
            self._check_rows(ids, others)

    @property
    def capabilities(self) -> Capabilities:
        old, side = self._old.capabilities, self._side.capabilities
        return Capabilities(old.atomic_swap, old.ids, old.payload, old.snapshot and side.snapshot)

    @property
    def places(self) -> Mapping[str, str]:
        return {**self._old.places, "side": self._names[1]}

    @property
    def rows(self) -> int:
        return self._old.rows

    @property
    def dims(self) -> Mapping[str, int]:
        return {**self._old.dims, "side": self._side.dims["old"]}

    @property
    def ids_dtype(self) -> np.dtype[Any] | None:
        return self._old.ids_dtype

    @property
    def payload(self) -> bytes:
        return self._old.payload

    @property
    def form(self) -> Mapping[str, Any]:
        return self._old.form

    @property
    def row_bytes(self) -> int:
        return self._old.row_bytes + self._side.row_bytes

    @property
    def held_bytes(self) -> int:
        positions = 0 if self._positions is None else self._positions.nbytes
        return self._old.held_bytes + self._side.held_bytes + positions

    @property
    def notes(self) -> Sequence[str]:
        dropped = [f"Payload columns of {self._names[1]} do not travel; those of {self._names[0]} do."]
        return [*self._old.notes, *self._side.notes, *(dropped if self._side.payload else [])]

    @property
    def spaces(self) -> Mapping[str, SpaceFingerprint]:
        side = self._side.spaces.get("old")
        return {**self._old.spaces, **({"side": side} if side is not None else {})}

    def identity(self) -> dict[str, Any]:
        return {**self._old.identity(), "side": self._side.identity(), "join": self._by}

    def read(self, shard: Shard) -> Rows:
        rows = self._old.read(shard)
        if self._positions is None:
            side = self._side.read(shard).old
        else:
            side = self._side.take(self._positions[shard.start : shard.stop]).old
        return Rows(rows.old, side, rows.ids, rows.payload)

    def take(self, positions: npt.NDArray[np.int64]) -> Rows:
        rows = self._old.take(positions)
        there = positions if self._positions is None else self._positions[positions]
        return Rows(rows.old, self._side.take(there).old, rows.ids)

    def sample(self, count: int) -> Rows:
        """Of each gallery on its own: what is looked at are the statistics of each, not the pairs."""
        rows, side = self._old.sample(count), self._side.sample(count).old
        n = min(len(rows.old), len(side))
        return Rows(rows.old[:n], side[:n], None if rows.ids is None else rows.ids[:n])

    def all_ids(self) -> Array | None:
        return self._old.all_ids()

    def overlaps(self, place: Place) -> bool:
        return self._old.overlaps(place) or self._side.overlaps(place)

    def close(self) -> None:
        self._old.close()
        self._side.close()

    def _check_rows(self, ids: Array | None, others: Array | None) -> None:
        old, side = self._names
        if self._side.rows != self._old.rows:
            raise ShapeError(
                f"{side} has {self._side.rows} rows, but {old} has {self._old.rows}; they are joined by row and must "
                f"pair up (join='id' pairs them by their ids)"
            )
        if ids is None or others is None or np.array_equal(ids, others):
            return
        row = int(np.argmax(ids != others)) if ids.dtype.kind == others.dtype.kind else 0
        raise StoreError(
            f"row {row} has the id {shown(ids[row])} in {old} and {shown(others[row])} in {side}, but they are joined "
            f"by row; put them in one order or use join='id'"
        )

    def _lookup(self, ids: Array | None, others: Array | None) -> npt.NDArray[np.int64]:
        old, side = self._names
        for name, found in ((old, ids), (side, others)):
            if found is None:
                raise ConfigError(f"{name} has no ids to join by; add them, or use join='row'")
        assert ids is not None
        assert others is not None
        if (ids.dtype.kind in "iu") != (others.dtype.kind in "iu"):
            raise ConfigError(f"{old} has ids of {ids.dtype}, but {side} has ids of {others.dtype}; they cannot match")
        positions = match_ids(ids, others, np.argsort(others, kind="stable"))
        missing = np.flatnonzero(positions < 0)
        if len(missing):
            raise StoreError(
                f"{side} lacks side-information for {len(missing)} of {len(ids)} rows of {old}, the first is the id "
                f"{shown(ids[missing[0]])}; complete it, so that no row is upgraded without"
            )
        return positions
