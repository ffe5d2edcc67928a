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
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, CorruptError, ShapeError, SpaceError, StoreError
from fct_fast.fs import FileSystem, write_atomic
from fct_fast.gallery.stores.npy_column import NpyColumn, ids_path, npy_files, space_path
from fct_fast.gallery.stores.protocol import Capabilities, Rows, Shard
from fct_fast.space import SpaceFingerprint

__all__ = ["NpySource", "absolute", "open_npy_source", "read_space", "space_bytes", "write_space"]

MAX_SPACE_BYTES = 16 << 20


class NpySource:
    """A gallery in .npy files: places "old" and, optionally, "side" and "ids", joined by row.

    Raises StoreError, DtypeError or ShapeError where a file cannot be used or row counts differ, SpaceError where a
    fingerprint is of another width than its rows.
    """

    capabilities = Capabilities(atomic_swap=True, ids=True, payload=False, snapshot=False)

    def __init__(self, places: Mapping[str, Path], fs: FileSystem) -> None:
        self._paths = {name: absolute(path) for name, path in places.items()}
        self._columns = {
            name: NpyColumn.vectors(path, fs) for name, path in self._paths.items() if name in ("old", "side")
        }
        found = self._find_ids()
        if found:
            self._columns["ids"] = NpyColumn.ids(found, fs)
        for name, column in self._columns.items():
            if column.rows != self.rows:
                raise ShapeError(
                    f"{self._describe(name)} has {column.rows} rows, but {self._describe('old')} has {self.rows}; "
                    f"they are joined by row and must pair up"
                )
        if self.rows == 0:
            raise StoreError(f"{self._paths['old']} has no rows; there is nothing to upgrade")
        self.spaces = {name: space for name in self.dims if (space := read_space(self._paths[name], fs)) is not None}
        for name, space in self.spaces.items():
            if space.dim != self.dims[name]:
                raise SpaceError(
                    f"{space_path(self._paths[name])} describes rows of {space.dim} values, but {self._paths[name]} "
                    f"has {self.dims[name]}; delete or correct the fingerprint"
                )

    @property
    def places(self) -> Mapping[str, str]:
        return {name: str(path) for name, path in self._paths.items()}

    @property
    def rows(self) -> int:
        return self._columns["old"].rows

    @property
    def dims(self) -> Mapping[str, int]:
        return {name: column.dim for name, column in self._columns.items() if name != "ids"}

    @property
    def ids_dtype(self) -> np.dtype[Any] | None:
        return self._columns["ids"].dtype if "ids" in self._columns else None

    @property
    def row_bytes(self) -> int:
        return sum(column.row_bytes for column in self._columns.values())

    def identity(self) -> dict[str, Any]:
        found = {name: column.identity() for name, column in self._columns.items()}
        for name, path in self._paths.items():
            found[name] |= {"path": str(path), "listed": len(npy_files(path, ids=name == "ids"))}
        return found

    def read(self, shard: Shard) -> Rows:
        read = {name: column.read(shard.start, shard.stop) for name, column in self._columns.items()}
        return Rows(read["old"], read.get("side"), read.get("ids"))

    def take(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> Rows:
        read = {name: column.take(positions) for name, column in self._columns.items()}
        return Rows(read["old"], read.get("side"), read.get("ids"))

    def overlaps(self, path: str) -> bool:
        target = absolute(Path(path))
        files = {file.path for column in self._columns.values() for file in column.files}
        return any(
            target == place or target in place.parents or (place in target.parents and place.is_dir())
            for place in [*self._paths.values(), *files]
        )

    def _find_ids(self) -> list[Path]:
        if "ids" in self._paths:
            return npy_files(self._paths["ids"], ids=True)
        files = [file.path for file in self._columns["old"].files]
        found = [ids_path(file) for file in files if ids_path(file).exists()]
        if found and len(found) < len(files):
            lacking = next(file for file in files if not ids_path(file).exists())
            raise StoreError(
                f"{ids_path(lacking)} is missing, while other shards have ids; add it or remove the others"
            )
        return found

    def _describe(self, name: str) -> str:
        return str(self._paths.get(name, f"the ids of {self._paths['old']}"))


def open_npy_source(places: Mapping[str, Path], fs: FileSystem) -> NpySource:
    unknown = set(places) - {"old", "side", "ids"}
    if unknown or "old" not in places:
        raise ConfigError(f"a source has 'old' and may have 'side' and 'ids', got {sorted(places)}")
    return NpySource(places, fs)


def absolute(path: Path) -> Path:
    """The path with links resolved in its parent, so that two names of one place compare equal."""
    return Path(os.path.realpath(path))


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
