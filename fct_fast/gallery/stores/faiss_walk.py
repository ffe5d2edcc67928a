"""A cursor over an index file that cannot be led astray: every size is held against what the file has left."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fct_fast.errors import CorruptError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.npy_column import byte_view

__all__ = ["Cursor", "Pieces", "assembled"]

Pieces: TypeAlias = tuple[bytes | range, ...]
"""A file without its rows, to be read when it is needed: literal bytes, and ranges of bytes of the file."""


class Cursor:
    """Reads fields of `path` one after the other. Raises CorruptError where the file has less than a field needs."""

    def __init__(self, fs: FileSystem, fd: int, path: Path) -> None:
        self.fs, self.fd, self.path, self.at = fs, fd, path, 0
        self.size = os.fstat(fd).st_size

    def require(self, sound: bool, what: str) -> None:
        if not sound:
            raise CorruptError(
                f"{self.path} is cut short or damaged: {what}; restore it, or write it anew with faiss.write_index"
            )

    def skip(self, count: int) -> range:
        """The next `count` bytes, unread."""
        start, left = self.at, self.size - self.at
        self.require(0 <= count <= left, f"{count} bytes are needed from byte {start} on, and {left} are left")
        self.at += count
        return range(start, self.at)

    def bytes(self, count: int) -> bytearray:
        where = self.skip(count)
        data = bytearray(count)
        self.fs.read_at(self.fd, self.path, memoryview(data), where.start)
        return data

    def fields(self, form: str) -> tuple[Any, ...]:
        """Fields of a fixed size, as `struct` names them, without padding."""
        form = "<" + form
        return struct.unpack(form, self.bytes(struct.calcsize(form)))

    def field(self, form: str) -> Any:
        return self.fields(form)[0]

    def code(self) -> str:
        """Four letters that name a kind."""
        return self.bytes(4).decode("latin1")

    def vector(self, item: int) -> range:
        """The bytes of a vector of items of so many bytes each, which its length goes before."""
        return self.skip(self.field("Q") * item)

    def array(self, dtype: str, where: range) -> npt.NDArray[Any]:
        """What lies at `where`, read now."""
        out = np.empty(len(where) // np.dtype(dtype).itemsize, dtype)
        self.fs.read_at(self.fd, self.path, byte_view(out), where.start)
        return out


def assembled(pieces: Pieces, fs: FileSystem, path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of all pieces, one after the other."""
    out = np.empty(sum(map(len, pieces)), np.uint8)
    view, done = byte_view(out), 0
    fd = fs.open_file(path)
    try:
        for piece in pieces:
            part = view[done : done + len(piece)]
            if isinstance(piece, range):
                fs.read_at(fd, path, part, piece.start)
            else:
                part[:] = piece
            done += len(piece)
    finally:
        fs.close_file(fd, path)
    return out
