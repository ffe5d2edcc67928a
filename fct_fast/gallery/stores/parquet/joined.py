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
from fct_fast.gallery.stores.parquet.files import Input
from fct_fast.gallery.stores.parquet.footer import MAGIC, FooterError
from fct_fast.gallery.stores.parquet.thrift import Struct
from fct_fast.gallery.stores.protocol import Layout, Shard

__all__ = ["JoinedFile", "write_joined"]

PIECE = 8 << 20  # bytes copied at once


class JoinedFile:
    """Raises CorruptError where the file is not what `write_joined` wrote."""

    def __init__(self, path: Path, layout: Layout, fs: FileSystem) -> None:
        self.path, self._fs = path, fs
        file = Input(path, fs)
        try:
            with _damage(path):
                self._whole, self._end = _footer(file)
                bounds = np.concatenate([[0], np.cumsum(footers.group_rows(self._whole))])
                starts = [layout.shard(index).start for index in range(layout.shards)]
                self._firsts = np.searchsorted(bounds, [*starts, layout.rows]).tolist()
                if bounds[self._firsts].tolist() != [*starts, layout.rows] or self._firsts[-1] != len(bounds) - 1:
                    raise FooterError("is not cut in row groups as its shards are")
                found = [footers.data_start(self._whole, first) for first in self._firsts[:-1]]
                self._starts = [*found, self._end]
        finally:
            file.close()

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
        try:
            file.read_at(memoryview(data)[len(MAGIC) : len(MAGIC) + stop - start], start)
            if shard.index == 0:  # the magic is nobody's else
                file.read_at(memoryview(data)[: len(MAGIC)], 0)
        finally:
            file.close()
        return bytes(data)

    def replace(self, shard: Shard, part: bytes | memoryview) -> None:
        """Write a part over what the file holds of it. Raises StoreError where it does not fit there."""
        start, stop = self._starts[shard.index : shard.index + 2]
        with _damage(self.path):
            tail = self._tail(shard)
        data = memoryview(part)[len(MAGIC) : len(part) - len(tail)]
        if bytes(part[len(part) - len(tail) :]) != tail or len(data) != stop - start:
            raise StoreError(
                f"{self.path} cannot be repaired in place, since this version of pyarrow writes rows "
                f"{shard.start} to {shard.stop - 1} in other bytes or the footer is damaged; start a new job"
            )
        fd = self._fs.open_file(self.path, write=True)
        try:
            self._fs.write_at(fd, self.path, MAGIC, 0)
            self._fs.write_at(fd, self.path, data, start)
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
            try:
                with _damage(path):
                    found, end = _footer(part)
                heads.append((found, end - len(MAGIC)))
                for piece in _pieces(part, len(MAGIC), end):
                    fs.write_at(fd, target, piece, place)
                    place += len(piece)
            finally:
                part.close()
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
    tail = bytearray(min(footers.TAIL, file.size()))
    file.read_at(memoryview(tail), file.size() - len(tail))
    size = footers.footer_size(bytes(tail))
    start = file.size() - footers.TAIL - size
    if start < len(MAGIC):
        raise FooterError("has a footer longer than itself")
    data = bytearray(size)
    file.read_at(memoryview(data), start)
    return footers.parse(bytes(data)), start


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
