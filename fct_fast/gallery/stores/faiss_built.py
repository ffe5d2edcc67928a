"""An index that was built from the rows of a job: these rows again, in the order of the job."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fct_fast.errors import CorruptError, DtypeError, ShapeError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.faiss_order import OrderedRows
from fct_fast.gallery.stores.npy_column import NpyColumn

__all__ = ["BuiltIndex", "digest_line"]

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

_BLOCK = 4 << 20


class BuiltIndex:
    """The index at `path`. digest: the file with its SHA-256, and the name that it has there. order: a .npy file of
    the ids in the order of the job, None where they rise or are kept in that order. Raises CorruptError where the files
    are not as they were built, StoreError where they cannot be read."""

    _order: I64 | None

    def __init__(self, path: Path, digest: tuple[Path, str], order: Path | None, fs: FileSystem) -> None:
        _require_intact(path, *digest, fs)
        self._path, self._order = path, None
        try:
            self._rows = OrderedRows(path, fs)
            if order is not None:
                ids = NpyColumn.ids([order], fs)
                self._order = ids.read(0, ids.rows).astype(np.int64)
        except (DtypeError, ShapeError) as error:
            raise CorruptError(f"{path} or what is beside it is not as it was built: {error}") from error

    def read(self, start: int, stop: int) -> tuple[F32, I64]:
        """Rows start to stop of the job and their ids, which are positions where there are none."""
        if self._order is None:
            ids = self._rows.ids(start, stop)
            return self._rows.read(start, stop), np.arange(start, stop) if ids is None else ids
        wanted = self._order[start:stop]
        known = self._rows.ids(0, self._rows.index.rows)  # rising
        if known is None:
            known = np.arange(self._rows.index.rows)
        positions = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        if not np.array_equal(known[positions], wanted):
            raise CorruptError(f"{self._path} does not hold the ids that are listed beside it; restore both")
        return self._rows.take(positions), wanted


def digest_line(digest: str, name: str) -> bytes:
    """The content of a digest file, as `sha256sum -c` reads it."""
    return f"{digest}  {name}\n".encode("utf-8", "surrogateescape")


def _require_intact(path: Path, note: Path, name: str, fs: FileSystem) -> None:
    wanted = digest_line(_file_digest(path, fs), name)
    found = bytearray(len(wanted))
    fd = fs.open_file(note)
    try:
        size = os.fstat(fd).st_size
        fs.read_at(fd, note, memoryview(found)[:size], 0)
    finally:
        fs.close_file(fd, note)
    if found != wanted or size != len(wanted):
        raise CorruptError(f"{path} is not as it was built: its SHA-256 is not the one in {note}")


def _file_digest(path: Path, fs: FileSystem) -> str:
    sha, block, at = hashlib.sha256(), bytearray(_BLOCK), 0
    fd = fs.open_file(path)
    try:
        size = os.fstat(fd).st_size
        while at < size:
            part = memoryview(block)[: size - at]
            fs.read_at(fd, path, part, at)
            sha.update(part)
            at += len(part)
    finally:
        fs.close_file(fd, path)
    return sha.hexdigest()
