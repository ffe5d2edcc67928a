"""A FAISS Flat index as a file whose every byte has its place from the start: rows are written where they belong.

So the rows of a job lie in a real index while it runs, and in a finished one when the last is there. FAISS itself could
only write the whole from memory.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fct_fast.errors import CorruptError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.faiss_layout import Metric
from fct_fast.gallery.stores.npy_column import byte_view

__all__ = ["FlatFile"]

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

_FLAT = {"ip": b"IxFI", "l2": b"IxF2"}
_MAPS = {"IDMap": b"IxMp", "IDMap2": b"IxM2"}


class FlatFile:
    """rows x dim values, with int64 ids where `id_map` is not "". The bytes are those of `faiss.write_index`."""

    def __init__(self, rows: int, dim: int, metric: Metric, id_map: str) -> None:
        self.rows, self.dim, self.has_ids = rows, dim, bool(id_map)
        common = struct.pack("<iqqq?i", dim, rows, 1 << 20, 1 << 20, True, ("ip", "l2").index(metric))
        outer = _MAPS[id_map] + common if id_map else b""
        self._head = outer + _FLAT[metric] + common + struct.pack("<Q", rows * dim)
        self._tail = struct.pack("<Q", rows) if id_map else b""
        self._ids_at = len(self._head) + 4 * rows * dim + len(self._tail)

    def size(self, stop: int) -> int:
        """Bytes of a file that holds the rows before `stop`, at least."""
        if self.has_ids:
            return self._ids_at + 8 * stop
        return len(self._head) + 4 * stop * self.dim

    def open(self, path: Path, fs: FileSystem) -> int:
        """A file to write rows to, which is created where it is missing; all of it that is no row is put in order, also
        where it was damaged. On disk after the next `write`."""
        if not path.exists():
            fs.write_atomic(path, self._head)
        fd = fs.open_file(path, write=True)
        fs.write_at(fd, path, self._head, 0)
        fs.write_at(fd, path, self._tail, self._ids_at - len(self._tail))
        fs.shorten(fd, path, self.size(self.rows))
        return fd

    def write(self, fd: int, path: Path, fs: FileSystem, start: int, rows: F32, ids: I64 | None) -> None:
        """Put rows [n, dim] and ids [n] where they belong, and on disk."""
        fs.write_at(fd, path, byte_view(rows), len(self._head) + 4 * start * self.dim)
        if ids is not None:
            fs.write_at(fd, path, byte_view(ids), self._ids_at + 8 * start)
        fs.flush(fd, path)

    def read(self, path: Path, fs: FileSystem, start: int, stop: int) -> tuple[F32, I64 | None]:
        """Rows start to stop and their ids. Raises CorruptError where the rest of the file is not as it was written,
        StoreError where the rows are not there."""
        rows = np.empty((stop - start, self.dim), np.float32)
        ids = np.empty(stop - start, np.int64) if self.has_ids else None
        with _opened(path, fs) as fd:
            for expected, offset in ((self._head, 0), (self._tail, self._ids_at - len(self._tail))):
                found = bytearray(len(expected))
                fs.read_at(fd, path, memoryview(found), offset)
                if found != expected or os.fstat(fd).st_size > self.size(self.rows):
                    raise CorruptError(f"{path} is not as it was written: its header or its length has changed")
            fs.read_at(fd, path, byte_view(rows), len(self._head) + 4 * start * self.dim)
            if ids is not None:
                fs.read_at(fd, path, byte_view(ids), self._ids_at + 8 * start)
        return rows, ids


@contextmanager
def _opened(path: Path, fs: FileSystem, *, write: bool = False) -> Iterator[int]:
    fd = fs.open_file(path, write=write)
    try:
        yield fd
    finally:
        fs.close_file(fd, path)
