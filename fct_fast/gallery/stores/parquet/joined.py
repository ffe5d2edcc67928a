"""A single file that was joined from parts: its parts are found in it again, byte for byte."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fct_fast.errors import CorruptError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.parquet import footer as footers
from fct_fast.gallery.stores.parquet.dataset import SPACE_KEY
from fct_fast.gallery.stores.parquet.files import Input, Memory
from fct_fast.gallery.stores.parquet.footer import MAGIC, FooterError
from fct_fast.gallery.stores.parquet.thrift import Struct
from fct_fast.gallery.stores.protocol import Layout, Shard

__all__ = ["JoinedFile", "write_joined"]

PIECE = 8 << 20  # bytes copied at once


class JoinedFile:
    """Raises CorruptError where the file is not what `write_joined` wrote."""

    def __init__(self, path: Path, layout: Layout, fs: FileSystem) -> None:
        self.path, self._fs = path, fs
        with _damage(path):
            file = Input(path, fs)
            self._whole, self._end = _footer(file)
            self._size = file.size()
            bounds = np.cumsum([0, *footers.group_rows(self._whole)])
            starts = [*(layout.shard(index).start for index in range(layout.shards)), layout.rows]
            if bounds[-1] != layout.rows or (np.diff(bounds) < 1).any() or not np.isin(starts, bounds).all():
                raise FooterError("is not cut in row groups as its shards are")
            self._firsts = np.searchsorted(bounds, starts).tolist()
            found = [footers.data_start(self._whole, first) for first in self._firsts[:-1]]
            self._starts = [*found, self._end]

    @property
    def space(self) -> bytes | None:
        with _damage(self.path):
            return footers.metadata(self._whole).get(SPACE_KEY)

    def part(self, shard: Shard) -> bytes:
        """The part file of a shard."""
        start, stop = self._starts[shard.index : shard.index + 2]
        with _damage(self.path):
            tail = self._tail(shard)
            if not len(MAGIC) <= start <= stop <= self._end:
                raise FooterError("has row groups at impossible places")
        data = bytearray(len(MAGIC) + stop - start + len(tail))
        data[: len(MAGIC)], data[len(data) - len(tail) :] = MAGIC, tail
        file = Input(self.path, self._fs)
        file.read_at(memoryview(data)[len(MAGIC) : len(MAGIC) + stop - start], start)
        if shard.index == 0:  # the magic is nobody's else
            file.read_at(memoryview(data)[: len(MAGIC)], 0)
        return bytes(data)

    def replace(self, shard: Shard, part: bytes | memoryview) -> None:
        """Write a part over what the file holds of it, in its data and in its footer. Raises CorruptError where it does
        not fit there."""
        start, stop = self._starts[shard.index : shard.index + 2]
        with _damage(self.path):
            found, end = _footer(Memory(self.path, part))
            before = start - len(MAGIC)
            tail = footers.seal(footers.patched(self._whole, self._firsts[shard.index], found, before, [SPACE_KEY]))
            if end - len(MAGIC) != stop - start or len(tail) != self._size - self._end:
                raise FooterError("has no room for the rows that were there")
        fd = self._fs.open_file(self.path, write=True)
        try:
            for data, place in ((MAGIC, 0), (memoryview(part)[len(MAGIC) : end], start), (tail, self._end)):
                self._fs.write_at(fd, self.path, data, place)
            self._fs.flush(fd, self.path)
        finally:
            self._fs.close_file(fd, self.path)

    def _tail(self, shard: Shard) -> bytes:
        first, stop = self._firsts[shard.index : shard.index + 2]
        before = self._starts[shard.index] - len(MAGIC)
        return footers.seal(footers.cut(self._whole, first, stop, before, [SPACE_KEY]))


def write_joined(parts: list[Path], target: Path, space: bytes | None, fs: FileSystem) -> None:
    """Join part files, in their order, to `target`, and put it on disk. Raises StoreError or CorruptError."""
    heads: list[tuple[Struct, int]] = []
    place = len(MAGIC)
    fs.remove(target)
    fd = fs.open_file(target, write=True)
    try:
        fs.write_at(fd, target, MAGIC, 0)
        for path in parts:
            part = Input(path, fs)
            with _damage(path):
                found, end = _footer(part)
            heads.append((found, end - len(MAGIC)))
            for piece in _pieces(part, len(MAGIC), end):
                fs.write_at(fd, target, piece, place)
                place += len(piece)
        try:
            whole = footers.join(heads, {} if space is None else {SPACE_KEY: space})
        except FooterError as error:
            raise StoreError(
                f"the parts of {target} cannot be joined: one {error}; go on with the version of pyarrow that the job "
                f"was begun with, or start a new job"
            ) from error
        fs.write_at(fd, target, footers.seal(whole), place)
        fs.flush(fd, target)
    finally:
        fs.close_file(fd, target)


def _footer(file: Input) -> tuple[Struct, int]:
    """The footer of a file, and where it begins."""
    data, start = footers.footer_bytes(file)
    return footers.parse(data), start


def _pieces(file: Input, start: int, stop: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(PIECE, stop - start)))
    while start < stop:
        piece = buffer[: min(PIECE, stop - start)]
        file.read_at(piece, start)
        yield piece
        start += len(piece)


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except FooterError as error:
        raise CorruptError(f"{path} is not as it was written: it {error}") from error
