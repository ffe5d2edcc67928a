"""The npy store: a .npy file, or a folder of .npy shards in the order of their names.

Beside `gallery.npy`, `gallery.ids.npy` holds one id a row (any plain dtype) and `gallery.space.json` the fingerprint of
the space; in a folder, each `x.npy` has its `x.ids.npy`, and `space.json` serves all. Without ids, the id of a row is
its position.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, CorruptError, ShapeError, SpaceError, StoreError
from fct_fast.fs import FileSystem, write_atomic
from fct_fast.gallery.stores.ids import require_unique
from fct_fast.gallery.stores.npy_column import NpyColumn, ids_path, npy_files, space_path
from fct_fast.gallery.stores.place import Place, absolute
from fct_fast.gallery.stores.protocol import Array, Capabilities, Columns, Layout, Rows, Shard, spread
from fct_fast.space import SpaceFingerprint

if TYPE_CHECKING:
    from fct_fast.gallery.stores.npy_sink import NpySink

__all__ = ["NpySource", "open_sink", "open_source", "read_space", "space_bytes", "write_space"]

MAX_SPACE_BYTES = 16 << 20


class NpySource:
    """A gallery in .npy files: vectors and, optionally, ids.

    Raises StoreError, DtypeError or ShapeError where a file cannot be used or row counts differ, SpaceError where a
    fingerprint is of another width than its rows.
    """

    capabilities = Capabilities(atomic_swap=True, ids=True, payload=False, snapshot=False)
    payload = b""
    held_bytes = 0
    notes: Sequence[str] = ()
    form: Mapping[str, Any] = MappingProxyType({"store": "npy"})

    def __init__(self, old: Path, ids: Path | None, fs: FileSystem) -> None:
        self._paths = {"old": old} | ({"ids": ids} if ids is not None else {})
        self._vectors = NpyColumn.vectors(old, fs)
        found = npy_files(ids, ids=True) if ids is not None else self._sidecars()
        self._ids = NpyColumn.ids(found, fs) if found else None
        if self.rows == 0:
            raise StoreError(f"{old} has no rows; there is nothing to upgrade")
        if self._ids is not None:
            where = str(ids) if ids is not None else f"the ids of {old}"
            if self._ids.rows != self.rows:
                raise ShapeError(
                    f"{where} has {self._ids.rows} rows, but {old} has {self.rows}; they are joined by row and must "
                    f"pair up"
                )
            require_unique(self._ids.read(0, self.rows), where)
        space = read_space(old, fs)
        self.spaces = {} if space is None else {"old": space}
        if space is not None and space.dim != self._vectors.dim:
            raise SpaceError(
                f"{space_path(old)} describes rows of {space.dim} values, but {old} has {self._vectors.dim}; delete or "
                f"correct the fingerprint"
            )

    @property
    def places(self) -> Mapping[str, str]:
        return {name: str(path) for name, path in self._paths.items()}

    @property
    def rows(self) -> int:
        return self._vectors.rows

    @property
    def dims(self) -> Mapping[str, int]:
        return {"old": self._vectors.dim}

    @property
    def ids_dtype(self) -> np.dtype[Any] | None:
        return None if self._ids is None else self._ids.dtype

    @property
    def row_bytes(self) -> int:
        return self._vectors.row_bytes + (self._ids.row_bytes if self._ids is not None else 0)

    def identity(self) -> dict[str, Any]:
        found = {"old": self._vectors.identity()} | ({"ids": self._ids.identity()} if self._ids is not None else {})
        for name, path in self._paths.items():
            found[name] |= {"path": str(path), "listed": len(npy_files(path, ids=name == "ids"))}
        return found

    def read(self, shard: Shard) -> Rows:
        ids = None if self._ids is None else self._ids.read(shard.start, shard.stop)
        return Rows(self._vectors.read(shard.start, shard.stop), ids=ids)

    def take(self, positions: npt.NDArray[np.int64]) -> Rows:
        return Rows(self._vectors.take(positions), ids=None if self._ids is None else self._ids.take(positions))

    def sample(self, count: int) -> Rows:
        return self.take(spread(self.rows, count))

    def all_ids(self) -> Array | None:
        return None if self._ids is None else self._ids.read(0, self.rows)

    def overlaps(self, place: Place) -> bool:
        if place.scheme:
            return False
        columns = [self._vectors] if self._ids is None else [self._vectors, self._ids]
        files = {absolute(file.path) for column in columns for file in column.files}
        return any(
            place.path == own or place.path in own.parents or (own in place.path.parents and own.is_dir())
            for own in [*self._paths.values(), *files]
        )

    def close(self) -> None:
        pass

    def _sidecars(self) -> list[Path]:
        """The `.ids.npy` beside each file of vectors; none or all must be there."""
        files = [file.path for file in self._vectors.files]
        found = [ids_path(file) for file in files if ids_path(file).exists()]
        if found and len(found) < len(files):
            lacking = next(file for file in files if not ids_path(file).exists())
            raise StoreError(
                f"{ids_path(lacking)} is missing, while other shards have ids; add it or remove the others"
            )
        return found


def open_source(columns: Columns, fs: FileSystem) -> NpySource:
    for place in (columns.old, columns.side, columns.ids):
        if place is not None and place.column:
            raise ConfigError(f"{place} names a column, which .npy files do not have; give a file for each kind of row")
    return NpySource(columns.old.path, columns.ids.path if columns.ids is not None else None, fs)


def open_sink(place: Place, layout: Layout, token: str, fs: FileSystem) -> NpySink:
    from fct_fast.gallery.stores.npy_sink import NpySink

    return NpySink(place.path, layout, token, fs)


def read_space(gallery: Path, fs: FileSystem) -> SpaceFingerprint | None:
    """The fingerprint beside a gallery, None where there is none. Raises CorruptError where it cannot be read as
    one."""
    path = space_path(gallery)
    if not path.exists():
        return None
    fd = fs.open_file(path)
    try:
        data = bytearray(min(os.fstat(fd).st_size, MAX_SPACE_BYTES + 1))
        fs.read_at(fd, path, memoryview(data), 0)
    finally:
        fs.close_file(fd, path)
    try:
        if len(data) > MAX_SPACE_BYTES:
            raise ValueError("too long")
        return SpaceFingerprint.from_json(json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptError(f"{path} is no space fingerprint ({error}); delete it or write it anew") from error


def write_space(gallery: str | os.PathLike[str], space: SpaceFingerprint) -> None:
    """Stamp a .npy gallery (file or folder) with the space that it lives in. Raises StoreError."""
    write_atomic(space_path(Path(gallery)), space_bytes(space))


def space_bytes(space: SpaceFingerprint) -> bytes:
    """The content of a fingerprint file: the same bytes for the same fingerprint."""
    return json.dumps(space.to_json(), sort_keys=True, indent=1).encode() + b"\n"
