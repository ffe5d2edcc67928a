"""Writing a gallery as .npy: one file, or a folder with one `part-NNNNNN.npy` a shard.

All is built beside its final place, under a name that carries the job's token, and renamed at the end: a reader sees no
gallery or a whole one. In the file form ids and fingerprint are renamed first and the vectors last. Equal rows give
equal bytes in both forms.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fct_fast.errors import CorruptError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.npy import read_space, space_bytes
from fct_fast.gallery.stores.npy_column import byte_view, ids_path, space_path
from fct_fast.gallery.stores.npy_format import npy_header
from fct_fast.gallery.stores.place import absolute
from fct_fast.gallery.stores.protocol import Array, Capabilities, Layout, Loaded, Shard
from fct_fast.space import SpaceFingerprint

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["NpySink"]


@dataclass(frozen=True)
class _Column:
    """Vectors or ids: what one row is, and the name ending of its files."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    ending: str

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))


class NpySink:
    """A gallery in .npy files; see `protocol.Sink`. A path that ends in .npy is one file, any other a folder."""

    held_bytes = 0
    build_seconds = 0.0
    notes: Sequence[str] = ()

    def __init__(self, path: Path, layout: Layout, token: str, fs: FileSystem) -> None:
        self._path, self._layout, self._token, self._fs = absolute(path), layout, token, fs
        self._folder = path.suffix != ".npy"
        self.capabilities = Capabilities(atomic_swap=self._folder, ids=True, payload=False, snapshot=False)
        self._columns = [_Column(layout.dtype, (layout.dim,), ".npy")]
        if layout.ids_dtype is not None:
            self._columns.append(_Column(layout.ids_dtype, (), ".ids.npy"))
        self._open: dict[Path, int] = {}

    @property
    def place(self) -> str:
        return str(self._path)

    @property
    def free_bytes(self) -> int | None:
        parent = next(folder for folder in self._path.parents if folder.is_dir())
        with contextlib.suppress(OSError):
            stat = os.statvfs(parent)
            if stat.f_blocks:
                return stat.f_bavail * stat.f_frsize
        return None

    def refuse_existing(self) -> None:
        for path in self._finals():
            if _occupied(path):
                raise StoreError(f"{path} already exists and is not of this job; remove it or choose another sink")

    def begin(self) -> None:
        self._fs.make_folder(self._path.parent)
        self._fs.flush_folder(self._path.parent)  # a process that was killed may have renamed without
        if self.published:
            return
        if self._folder:
            self._fs.make_folder(self._partial(self._path))
            self._remove_leftovers(self._partial(self._path), ".")
            return
        for final in self._finals():
            self._remove_leftovers(self._path.parent, f".{self._partial(final).name}.")
        for column in self._columns:
            current = self._current(self._final(column))
            if not current.exists():
                self._fs.write_atomic(current, self._header(column, self._layout.rows))

    def write(self, shard: Shard, new: Array, ids: Array | None, payload: pa.Table | None) -> bytes:
        sha = hashlib.sha256()
        for column, rows in zip(self._columns, [new] if ids is None else [new, ids], strict=True):
            sha.update(self._put(column, shard, rows))
        for path, fd in self._open.items():
            self._fs.flush(fd, path)
        return sha.digest()

    def load(self, shard: Shard) -> Loaded:
        sha, arrays = hashlib.sha256(), [self._get(column, shard) for column in self._columns]
        for rows in arrays:
            sha.update(byte_view(rows))
        return Loaded(arrays[0], arrays[1] if len(arrays) > 1 else None, None, sha.digest())

    def fault(self, shards: Collection[int]) -> str | None:
        if not self._folder:
            stop = self._layout.shard(max(shards)).stop if shards else 0
            for column in self._columns:
                path = self._current(self._final(column))
                needed = len(self._header(column, self._layout.rows)) + stop * column.row_bytes
                size = path.stat().st_size if path.exists() else 0
                if size < needed:
                    return f"{path} has {size} bytes, but {needed} were committed"
            return None
        folder = self._current(self._path)
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)} if folder.is_dir() else {}
        for shard in map(self._layout.shard, shards):
            for column in self._columns:
                name = _part(shard, column)
                needed = len(self._header(column, shard.rows)) + shard.rows * column.row_bytes
                if sizes.get(name) != needed:
                    return f"{folder / name} has {sizes.get(name, 'no')} bytes, but {needed} were committed"
        return None

    def where(self, shard: Shard) -> str:
        path = str(self._file(self._columns[0], shard))
        return path if self._folder else f"{path}, rows {shard.start} to {shard.stop - 1}"

    def publish(self, space: SpaceFingerprint | None) -> None:
        if self.published:
            return
        self.close()
        if space is not None:
            self._stamp(space_bytes(space))
        for final in self._finals():
            partial = self._partial(final)
            if partial.exists():
                if _occupied(final):
                    raise StoreError(f"{final} appeared while the job ran; move it away and run the same command again")
                self._fs.publish(partial, final)

    @property
    def published(self) -> bool:
        return _occupied(self._path) and not self._partial(self._path).exists()

    @property
    def space(self) -> SpaceFingerprint | None:
        return read_space(self._path, self._fs)

    def state(self) -> str:
        sha = hashlib.sha256()
        for path in sorted(self._path.iterdir()) if self._folder else self._finals():
            if path.exists():
                stat = path.stat()
                sha.update(os.fsencode(path.name) + b"\0%d %d\0" % (stat.st_size, stat.st_mtime_ns))
        return sha.hexdigest()

    def close(self) -> None:
        while self._open:
            path, fd = self._open.popitem()
            self._fs.close_file(fd, path)

    def _stamp(self, data: bytes) -> None:
        stamp = space_path(self._path)
        if self._folder:
            self._fs.write_atomic(self._partial(self._path) / stamp.name, data)
        elif not (stamp.exists() and stamp.read_bytes() == data):  # it is there after a crash between two renames
            self._fs.write_atomic(self._partial(stamp), data)

    def _put(self, column: _Column, shard: Shard, rows: Array) -> memoryview:
        """Write one shard of a column; returns its bytes."""
        data = byte_view(np.ascontiguousarray(rows, column.dtype))
        path = self._file(column, shard)
        if self._folder:
            self._fs.write_atomic(path, self._header(column, shard.rows), data)
        else:
            header = self._header(column, self._layout.rows)
            if path not in self._open:
                self._open[path] = fd = self._fs.open_file(path, write=True)
                self._fs.write_at(fd, path, header, 0)  # the same bytes, but where the file was damaged
                self._fs.shorten(fd, path, len(header) + self._layout.rows * column.row_bytes)
            self._fs.write_at(self._open[path], path, data, len(header) + shard.start * column.row_bytes)
        return data

    def _get(self, column: _Column, shard: Shard) -> Array:
        """One shard of a column; its header must be the very bytes that were written."""
        path = self._file(column, shard)
        stored = shard if self._folder else self._whole()
        expected = self._header(column, stored.rows)
        head, rows = bytearray(len(expected)), np.empty((shard.rows, *column.shape), column.dtype)
        fd = self._fs.open_file(path)
        try:
            size = len(expected) + stored.rows * column.row_bytes
            self._fs.read_at(fd, path, memoryview(head), 0)
            if head != expected or os.fstat(fd).st_size > size:
                raise CorruptError(f"{path} is not as it was written: its header or its length has changed")
            offset = len(expected) + (shard.start - stored.start) * column.row_bytes
            self._fs.read_at(fd, path, byte_view(rows), offset)
        finally:
            self._fs.close_file(fd, path)
        return rows

    def _header(self, column: _Column, rows: int) -> bytes:
        return npy_header(column.dtype, (rows, *column.shape))

    def _whole(self) -> Shard:
        return Shard(0, 0, self._layout.rows)

    def _file(self, column: _Column, shard: Shard) -> Path:
        """The file that holds a shard of a column at this moment: still beside, or at its final place."""
        if self._folder:
            return self._current(self._path) / _part(shard, column)
        return self._current(self._final(column))

    def _final(self, column: _Column) -> Path:
        return self._path if column is self._columns[0] else ids_path(self._path)

    def _finals(self) -> list[Path]:
        """What appears at the end, the gallery itself last."""
        return [self._path] if self._folder else [ids_path(self._path), space_path(self._path), self._path]

    def _partial(self, final: Path) -> Path:
        return final.with_name(f"{final.name}.partial-{self._token}")

    def _current(self, final: Path) -> Path:
        partial = self._partial(final)
        return partial if partial.exists() or not _occupied(final) else final

    def _remove_leftovers(self, folder: Path, start: str) -> None:
        """Temporary files of a process that was killed."""
        for path in folder.iterdir():
            if path.name.startswith(start) and path.name.endswith(".tmp"):
                self._fs.remove(path)


def _part(shard: Shard, column: _Column) -> str:
    return f"part-{shard.index:06d}{column.ending}"


def _occupied(path: Path) -> bool:
    """Whether something is there; an empty folder is a place to write to."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))
