"""The pages of one column chunk of vectors, their levels checked and left out.

Arrow assembles lists level by level, which takes it several times longer than the values themselves. Here the levels of
a page are checked to say that all vectors are whole and of one length; plain values are then just the bytes that
follow. What does not fit this picture raises `Unusual`: the caller lets Arrow read the column as it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fct_fast.errors import CorruptError
from fct_fast.gallery.stores.parquet.indices import Dictionary
from fct_fast.gallery.stores.parquet.levels import all_defined, all_one_length
from fct_fast.gallery.stores.parquet.thrift import Struct, ThriftError, read_struct
from fct_fast.gallery.stores.parquet.window import ReadAt, Window
from fct_fast.gallery.stores.protocol import Array

__all__ = ["Chunk", "Page", "Pages", "Unusual"]

HEADER = 1 << 16  # bytes of a page header, at most; the levels mostly come along in the same read
BODIES = 2 << 20  # bytes read at once where whole pages are needed

# Of parquet.thrift.
DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = range(4)
PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY, BYTE_STREAM_SPLIT = 0, 2, 3, 8, 9

Peek = Callable[[int, int], memoryview]


class Unusual(Exception):
    """A chunk that Arrow must read as it is."""


@dataclass(frozen=True)
class Chunk:
    """A column chunk, as the footer describes it. where: for messages; offset, size: its bytes; values: how many, NULL
    included; width: bytes of a value; dim: values of a row; codec: its name for pyarrow, "" for none; max_rep, max_def:
    the highest levels."""

    where: str
    offset: int
    size: int
    values: int
    width: int
    dim: int
    codec: str
    max_rep: int
    max_def: int

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True)
class Page:
    """`count` values: in memory, uint8 [count, width], or else plain in the file from `offset` on."""

    count: int
    values: Array | None
    offset: int


class Pages:
    """The data pages of a chunk, one after the other."""

    def __init__(self, chunk: Chunk, read_at: ReadAt) -> None:
        self._chunk = chunk
        self._window = Window(read_at, chunk.end, BODIES if chunk.codec else HEADER)
        self._place = chunk.offset  # of the next page
        self._seen = 0  # values in the pages so far
        self._dictionary: Dictionary | None = None

    def next(self) -> Page:
        """Valid until the next call. Raises Unusual, and CorruptError for a page whose checksum is wrong."""
        while True:
            header, size = self._header()
            body, length = self._place + size, _number(header, 3)
            self._place = body + length
            if length < 0 or self._place > self._chunk.end:
                raise Unusual("holds a page that is longer than the chunk")
            if 4 in header:
                self._check(body, length, _number(header, 4))
            kind = _number(header, 1)
            if kind == DATA_PAGE:
                return self._data_page(header, body, length)
            if kind == DATA_PAGE_V2:
                return self._data_page_v2(header, body, length)
            if kind == DICTIONARY_PAGE:
                data = self._decompressed(self._window.get(body, length), _number(header, 2))
                self._dictionary = Dictionary(self._plain(data, len(data) // self._chunk.width).copy())
            elif kind != INDEX_PAGE:
                raise Unusual(f"holds a page of the type {kind}")

    def _header(self) -> tuple[Struct, int]:
        """The header of the next page, and its length."""
        for size in (1 << 10, HEADER):
            try:
                return read_struct(self._window.get(self._place, size))
            except ThriftError as error:
                failure = error
        raise Unusual(f"holds a page header that {failure}") from failure

    def _check(self, body: int, length: int, crc: int) -> None:
        if zlib.crc32(self._window.get(body, length)) != crc & 0xFFFFFFFF:
            raise CorruptError(
                f"{self._chunk.where} is damaged: the page at byte {body} does not fit its checksum; restore the file"
            )

    def _data_page(self, header: Struct, body: int, length: int) -> Page:
        """Version 1: levels, with their sizes before them, are compressed together with the values."""
        facts = _struct(header, 5)
        encoding, chunk = _number(facts, 2), self._chunk
        whole = None
        if chunk.codec or encoding != PLAIN:
            whole = self._decompressed(self._window.get(body, length), _number(header, 2))
            length = len(whole)

        def peek(start: int, count: int) -> memoryview:
            return self._window.get(body + start, count) if whole is None else whole[start : start + count]

        sizes, start = [], 0
        for level, field in ((chunk.max_rep, 4), (chunk.max_def, 3)):
            size = int.from_bytes(peek(start, 4), "little") if level else 0
            if (level and _number(facts, field) != RLE) or start + 4 + size > length:
                raise Unusual("holds levels of an old encoding, or longer than their page")
            sizes.append((start + 4, size))
            start += 4 + size if level else 0
        count = self._checked(_number(facts, 1), peek, *sizes)
        if whole is None:
            return self._in_file(count, body + start, body + length)
        return Page(count, self._decoded(whole[start:], count, encoding), 0)

    def _data_page_v2(self, header: Struct, body: int, length: int) -> Page:
        """Version 2: levels stand before the values and are never compressed."""
        facts = _struct(header, 8)
        encoding, reps, defs = (_number(facts, field) for field in (4, 6, 5))
        start = reps + defs
        if min(reps, defs) < 0 or start > length:
            raise Unusual("holds levels that are longer than their page")
        count = self._checked(_number(facts, 1), lambda at, n: self._window.get(body + at, n), (0, reps), (reps, defs))
        packed = bool(self._chunk.codec) and facts.get(7, (0, True))[1] is True
        if encoding == PLAIN and not packed:
            return self._in_file(count, body + start, body + length)
        data = self._window.get(body + start, length - start)
        data = self._decompressed(data, _number(header, 2) - start) if packed else data
        return Page(count, self._decoded(data, count, encoding), 0)

    def _checked(self, count: int, peek: Peek, reps: tuple[int, int], defs: tuple[int, int]) -> int:
        """The number of values of a page, once its levels say that nothing is missing."""
        if not 0 <= count <= self._chunk.values - self._seen:
            raise Unusual(f"holds a page of {count} values")
        if self._chunk.max_rep and not all_one_length(peek(*reps), count, self._seen, self._chunk.dim):
            raise Unusual("holds rows of differing length, or NULL")
        if self._chunk.max_def and not all_defined(peek(*defs), count, self._chunk.max_def):
            raise Unusual("holds NULL")
        self._seen += count
        return count

    def _in_file(self, count: int, start: int, end: int) -> Page:
        if start + count * self._chunk.width > end:
            raise Unusual("holds a page that is too short")
        return Page(count, None, start)

    def _decoded(self, data: memoryview, count: int, encoding: int) -> Array:
        if encoding in (PLAIN_DICTIONARY, RLE_DICTIONARY):
            found = self._dictionary.look_up(data, count) if self._dictionary is not None else None
            if found is None:
                raise Unusual("holds numbers of no dictionary entries")
            return found
        if encoding == PLAIN:
            return self._plain(data, count)
        if encoding == BYTE_STREAM_SPLIT:
            return np.ascontiguousarray(self._plain(data, count).reshape(self._chunk.width, count).T)
        raise Unusual(f"is in the encoding {encoding}")

    def _plain(self, data: memoryview, count: int) -> Array:
        width = self._chunk.width
        if len(data) < count * width:
            raise Unusual("holds a page that is too short")
        return np.frombuffer(data, np.uint8, count * width).reshape(count, width)

    def _decompressed(self, data: memoryview, size: int) -> memoryview:
        if not self._chunk.codec or not size:
            return data
        try:
            return memoryview(pa.Codec(self._chunk.codec).decompress(data, size)).cast("B")
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Unusual(f"holds a page that cannot be decompressed: {error}") from error


def _number(struct: Struct, field: int) -> int:
    found = struct.get(field, (0, None))[1]
    if not isinstance(found, int):
        raise Unusual("holds a page header that lacks a field")
    return found


def _struct(struct: Struct, field: int) -> Struct:
    found = struct.get(field, (0, None))[1]
    if not isinstance(found, dict):
        raise Unusual("holds a page header that lacks a field")
    return found
