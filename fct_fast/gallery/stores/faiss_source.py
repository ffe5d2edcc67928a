"""Reading a gallery from a FAISS index file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, ShapeError, SpaceError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.faiss_loss import expected_error
from fct_fast.gallery.stores.faiss_names import beside_space
from fct_fast.gallery.stores.faiss_order import OrderedRows
from fct_fast.gallery.stores.ids import require_unique
from fct_fast.gallery.stores.npy import read_space
from fct_fast.gallery.stores.npy_column import NpyColumn, npy_files
from fct_fast.gallery.stores.place import Place, absolute
from fct_fast.gallery.stores.protocol import Array, Capabilities, Rows, Shard, spread
from fct_fast.space import SpaceFingerprint

__all__ = ["FaissSource"]

_LOOKED_AT = 1024  # rows by which the error of a lossy quantiser is estimated


class FaissSource:
    """A gallery in a FAISS index file, in the order of `OrderedRows`; ids: .npy files with an id a row, for an index
    that keeps none.

    Raises StoreError, DtypeError, ShapeError or ConfigError where the files cannot be used, SpaceError where a
    fingerprint is of another width than its rows.
    """

    capabilities = Capabilities(atomic_swap=True, ids=True, payload=False, snapshot=False)
    payload = b""

    def __init__(self, old: Path, ids: Path | None, fs: FileSystem) -> None:
        self._paths = {"old": old} | ({"ids": ids} if ids is not None else {})
        self._ordered = OrderedRows(old, fs)
        if not self.rows:
            raise StoreError(f"{old} has no rows; there is nothing to upgrade")
        self._named_ids = self._open_ids(ids, fs) if ids is not None else None
        found = self.all_ids()
        if found is not None:
            require_unique(found, str(ids or old))
        space = read_space(beside_space(old), fs)
        self.spaces: Mapping[str, SpaceFingerprint] = {} if space is None else {"old": space}
        if space is not None and space.dim != self.dims["old"]:
            raise SpaceError(
                f"the fingerprint beside {old} describes rows of {space.dim} values, but the index has rows of "
                f"{self.dims['old']}; delete or correct it"
            )

    @property
    def places(self) -> Mapping[str, str]:
        return {name: str(path) for name, path in self._paths.items()}

    @property
    def rows(self) -> int:
        return self._ordered.index.rows

    @property
    def dims(self) -> Mapping[str, int]:
        return {"old": self._ordered.index.dim}

    @property
    def ids_dtype(self) -> np.dtype[Any] | None:
        if self._named_ids is not None:
            return self._named_ids.dtype
        return np.dtype("<i8") if self._ordered.has_ids else None

    @property
    def form(self) -> Mapping[str, Any]:
        index = self._ordered.index
        return {"store": "faiss", "index": index.plain, "metric": index.metric, **index.settings}

    @property
    def row_bytes(self) -> int:
        return 4 * self.dims["old"] + (0 if self.ids_dtype is None else self.ids_dtype.itemsize)

    @property
    def held_bytes(self) -> int:
        return self._ordered.held_bytes

    @cached_property
    def notes(self) -> Sequence[str]:
        return list(self._notes())

    def identity(self) -> dict[str, Any]:
        found = {"old": self._ordered.identity()}
        if self._named_ids is not None:
            found["ids"] = self._named_ids.identity()
        for name, path in self._paths.items():
            found[name]["path"] = str(path)
        return found

    def read(self, shard: Shard) -> Rows:
        start, stop, named = shard.start, shard.stop, self._named_ids
        ids = named.read(start, stop) if named is not None else self._ordered.ids(start, stop)
        return Rows(self._ordered.read(start, stop), ids=ids)

    def take(self, positions: npt.NDArray[np.int64]) -> Rows:
        named = self._named_ids
        ids = named.take(positions) if named is not None else self._ordered.take_ids(positions)
        return Rows(self._ordered.take(positions), ids=ids)

    def sample(self, count: int) -> Rows:
        return self.take(spread(self.rows, count))

    def all_ids(self) -> Array | None:
        named = self._named_ids
        return named.read(0, self.rows) if named is not None else self._ordered.ids(0, self.rows)

    def overlaps(self, place: Place) -> bool:
        if place.scheme:
            return False
        named = self._named_ids.files if self._named_ids is not None else ()
        files = {absolute(path) for path in [*self._paths.values(), *(file.path for file in named)]}
        return any(
            place.path == own or place.path in own.parents or (own in place.path.parents and own.is_dir())
            for own in files
        )

    def close(self) -> None:
        pass

    def _open_ids(self, path: Path, fs: FileSystem) -> NpyColumn:
        old = self._paths["old"]
        if self._ordered.has_ids:
            raise ConfigError(f"{old} has ids of its own; leave out {path}")
        ids = NpyColumn.ids(npy_files(path, ids=True), fs)
        if ids.rows != self.rows:
            raise ShapeError(
                f"{path} has {ids.rows} rows, but {old} has {self.rows}; they are joined by row and must pair up"
            )
        return ids

    def _notes(self) -> Iterator[str]:
        index, old, stored = self._ordered.index, self._paths["old"], self._ordered.stored
        if index.rows < index.counted:
            yield (
                f"{old} lacks {index.counted - index.rows} of the {index.counted} rows that were added to it: FAISS "
                f"puts a row with NaN in no list."
            )
        if index.transform:
            yield f"{old} holds its rows transformed ({index.kind}); they are turned back, which only rounds them."
        if "L2norm" in index.kind:
            yield f"{old} holds unit rows: their norms were dropped when they were added."
        if stored.codec.quantiser is None:
            return
        slots = spread(self.rows, _LOOKED_AT)
        error = expected_error(stored.codec.quantiser, stored.codes(slots), stored.take(slots))
        size = "how large their error is cannot be told from the file"
        if error is not None:
            size = f"their error is about {100 * error:.2g} % of a row's length, as far as the quantiser tells"
        yield (
            f"{old} holds its rows as codes ({index.kind}), so they come out as approximations: {size}. Use the "
            f"original embeddings where you have them."
        )
