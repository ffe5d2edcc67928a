"""Where in a SQLite file the stored values are, by the documented file format: https://www.sqlite.org/fileformat2.html"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

__all__ = ["stored_values"]

LEAF, INTERIOR = 0x0D, 0x05


def stored_values(path: Path) -> set[int]:
    """The offsets of all bytes of all values in all rows of the user's tables: no headers, lengths or row numbers."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        roots = [root for (root,) in connection.execute("SELECT rootpage FROM sqlite_master WHERE type = 'table'")]
    data = path.read_bytes()
    size = int.from_bytes(data[16:18], "big")
    return {offset for root in roots for cell in _cells(data, size, root) for offset in _body(data, cell)}


def _cells(data: bytes, size: int, page: int) -> Iterator[list[int]]:
    """The offsets of the bytes of each record below a page, in the order of the record."""
    start = (page - 1) * size
    kind, count = data[start], int.from_bytes(data[start + 3 : start + 5], "big")
    pointers = start + (8 if kind == LEAF else 12)
    cells = [start + int.from_bytes(data[at : at + 2], "big") for at in range(pointers, pointers + 2 * count, 2)]
    if kind == INTERIOR:
        children = [int.from_bytes(data[cell : cell + 4], "big") for cell in cells]
        for child in [*children, int.from_bytes(data[start + 8 : start + 12], "big")]:
            yield from _cells(data, size, child)
        return
    assert kind == LEAF
    for cell in cells:
        length, at = _varint(data, cell)
        _, at = _varint(data, at)  # the row's number
        yield _payload(data, size, length, at)


def _payload(data: bytes, size: int, length: int, at: int) -> list[int]:
    most, least = size - 35, (size - 12) * 32 // 255 - 23
    local = length
    if length > most:
        local = least + (length - least) % (size - 4)
        local = local if local <= most else least
    offsets = list(range(at, at + local))
    following = at + local
    while len(offsets) < length:
        page = (int.from_bytes(data[following : following + 4], "big") - 1) * size
        offsets += range(page + 4, page + 4 + min(size - 4, length - len(offsets)))
        following = page
    return offsets


def _body(data: bytes, record: list[int]) -> list[int]:
    header, _ = _varint(bytes(data[offset] for offset in record[:9]), 0)
    return record[header:]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of at most 9 bytes, and where it ends."""
    value = 0
    for number in range(9):
        byte = data[at + number]
        if number == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + number + 1
    raise AssertionError
