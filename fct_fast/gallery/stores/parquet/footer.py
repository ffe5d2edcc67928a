"""The footer of Parquet files: several files joined to one under a common footer, and cut out of it again.

The data of a file stand between the four bytes at its begin and its footer. To join files, their data are put one after
the other as they are, and the row groups of their footers, whose offsets are moved along, into one footer. Nothing is
decoded, and cutting gives back the very bytes of each file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fct_fast.gallery.stores.parquet.files import Input
from fct_fast.gallery.stores.parquet.thrift import (
    BINARY,
    STRUCT,
    Struct,
    ThriftError,
    read_struct,
    write_struct,
)

__all__ = [
    "MAGIC",
    "ChunkFacts",
    "FooterError",
    "chunk_facts",
    "cut",
    "data_start",
    "footer_bytes",
    "group_rows",
    "join",
    "metadata",
    "parse",
    "patched",
    "read_footer",
    "seal",
]

MAGIC = b"PAR1"
TAIL = 8  # bytes after the footer: its length, and the magic

# Fields of parquet.thrift.
NUM_ROWS, ROW_GROUPS, KEY_VALUES = 3, 4, 5
COLUMNS, GROUP_ROWS, GROUP_OFFSET = 1, 3, 5
CHUNK_FILE, CHUNK_OFFSET, CHUNK_META, OFFSET_INDEX, COLUMN_INDEX = 1, 2, 3, 4, 6
CODEC, VALUES, SIZE = 4, 5, 7
DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, BLOOM_FILTER = 9, 10, 11, 14


class FooterError(ValueError):
    """Bytes that are no footer, or not one that `join` made."""


@dataclass(frozen=True)
class ChunkFacts:
    """Where a column chunk is, its codec as a number of parquet.thrift, and how many values it holds."""

    offset: int
    size: int
    codec: int
    values: int


def footer_bytes(file: Input) -> tuple[bytes, int]:
    """The footer of a file without its tail, and where it begins."""
    tail = bytearray(min(TAIL, file.size()))
    file.read_at(memoryview(tail), file.size() - len(tail))
    if len(tail) < TAIL or tail[-4:] != MAGIC:
        raise FooterError("does not end as Parquet files do")
    size = int.from_bytes(tail[:4], "little")
    start = file.size() - TAIL - size
    if start < len(MAGIC):
        raise FooterError("has a footer longer than itself")
    data = bytearray(size)
    file.read_at(memoryview(data), start)
    return bytes(data), start


def read_footer(file: Input) -> Struct:
    """The footer of a file that anybody wrote."""
    try:
        return read_struct(footer_bytes(file)[0])[0]
    except (ThriftError, RecursionError) as error:
        raise FooterError(f"has a footer that {error}") from error


def chunk_facts(footer: Struct, group: int, leaf: int) -> ChunkFacts:
    """Of the `leaf`-th column of a row group. Raises FooterError, also where the chunk is in another file."""
    try:
        chunk = _structs(_structs(footer, ROW_GROUPS)[group], COLUMNS)[leaf]
    except IndexError:
        raise FooterError("has a footer that lacks a column") from None
    meta = _get(chunk, CHUNK_META, dict)
    if CHUNK_FILE in chunk:
        raise FooterError("has its columns in other files")
    start = _number(meta, DATA_PAGE)
    if DICTIONARY_PAGE in meta:
        start = min(start, _number(meta, DICTIONARY_PAGE) or start)
    return ChunkFacts(start, _number(meta, SIZE), _number(meta, CODEC), _number(meta, VALUES))


def parse(data: bytes) -> Struct:
    """A footer without its tail. Writing it again gives the same bytes, or FooterError is raised."""
    try:
        footer, end = read_struct(data)
        same = end == len(data) and write_struct(footer) == data
    except (ThriftError, RecursionError, OverflowError) as error:
        raise FooterError(f"has a footer that {error}") from error
    if not same:
        raise FooterError("has a footer that was not written by Arrow")
    return footer


def seal(footer: Struct) -> bytes:
    """A footer as it stands at the end of a file, with its tail."""
    data = write_struct(footer)
    return data + len(data).to_bytes(4, "little") + MAGIC


def group_rows(footer: Struct) -> list[int]:
    """The rows of each row group, which are those of the file."""
    found = [_number(group, GROUP_ROWS) for group in _structs(footer, ROW_GROUPS)]
    if sum(found) != _number(footer, NUM_ROWS):
        raise FooterError("has a footer whose numbers of rows do not add up")
    return found


def data_start(footer: Struct, group: int) -> int:
    """Where the data of a row group begin."""
    metas = [_get(chunk, CHUNK_META, dict) for chunk in _structs(_structs(footer, ROW_GROUPS)[group], COLUMNS)]
    starts = [_number(meta, field) for meta in metas for field in (DATA_PAGE, DICTIONARY_PAGE) if field in meta]
    return min(starts, default=0)


def metadata(footer: Struct) -> dict[bytes, bytes]:
    """The key-value metadata."""
    return {_get(pair, 1, bytes): _get(pair, 2, bytes) for pair in _structs(footer, KEY_VALUES)}


def join(footers: Iterable[tuple[Struct, int]], extra: dict[bytes, bytes]) -> Struct:
    """The footer of files whose data follow each other; each is given with the length of its data. extra: more
    key-value metadata. Raises FooterError where the files do not have the same columns, metadata and writer."""
    whole: Struct = {}
    groups: list[Struct] = []
    rows = length = 0
    for footer, size in footers:
        head = _head(footer)
        whole = whole or head
        if head != whole:
            raise FooterError("was written by another version of Arrow than the first one")
        for group in _structs(footer, ROW_GROUPS):
            groups.append(_moved(group, length))
            rows += _number(group, GROUP_ROWS)
        length += size
    pairs = _structs(whole, KEY_VALUES) + [{1: (BINARY, key), 2: (BINARY, value)} for key, value in extra.items()]
    return _with(whole, rows, groups, pairs)


def cut(whole: Struct, first: int, stop: int, before: int, extra: Sequence[bytes]) -> Struct:
    """The footer of the file that the row groups first to stop of a joined one came from. before: the length of the
    data before these; extra: keys of the metadata that joining added."""
    groups = [_moved(group, -before) for group in _structs(whole, ROW_GROUPS)[first:stop]]
    pairs = [pair for pair in _structs(whole, KEY_VALUES) if _get(pair, 1, bytes) not in extra]
    return _with(_head(whole), sum(_number(group, GROUP_ROWS) for group in groups), groups, pairs)


def patched(whole: Struct, first: int, part: Struct, before: int, extra: Sequence[bytes]) -> Struct:
    """A joined footer with what it says of one of its files put right, from `first` on among its row groups."""
    groups, added = _structs(whole, ROW_GROUPS), [_moved(group, before) for group in _structs(part, ROW_GROUPS)]
    groups[first : first + len(added)] = added
    kept = [pair for pair in _structs(whole, KEY_VALUES) if _get(pair, 1, bytes) in extra]
    rows = sum(_number(group, GROUP_ROWS) for group in groups)
    return _with(_head(part), rows, groups, _structs(part, KEY_VALUES) + kept)


def _with(head: Struct, rows: int, groups: list[Struct], pairs: list[Struct]) -> Struct:
    changed = {NUM_ROWS: rows, ROW_GROUPS: (STRUCT, groups), KEY_VALUES: (STRUCT, pairs)}
    return {field: (kind, changed.get(field, value)) for field, (kind, value) in head.items()}


def _head(footer: Struct) -> Struct:
    """All that is no row group, with rows and groups left blank."""
    if not {NUM_ROWS, ROW_GROUPS, KEY_VALUES} <= set(footer):
        raise FooterError("has a footer that lacks a field")
    return _with(footer, 0, [], _structs(footer, KEY_VALUES))


def _moved(group: Struct, by: int) -> Struct:
    """A row group whose data are moved."""
    moved = copy.deepcopy(group)
    _shift(moved, by, GROUP_OFFSET)
    for chunk in _structs(moved, COLUMNS):
        _shift(chunk, by, CHUNK_OFFSET, OFFSET_INDEX, COLUMN_INDEX)
        _shift(_get(chunk, CHUNK_META, dict), by, DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, BLOOM_FILTER)
    return moved


def _shift(struct: Struct, by: int, *fields: int) -> None:
    for field in fields:
        if field in struct and _number(struct, field):  # 0: not used
            struct[field] = (struct[field][0], _number(struct, field) + by)


def _structs(struct: Struct, field: int) -> list[Struct]:
    kind, items = _get(struct, field, tuple)
    if kind != STRUCT:
        raise FooterError("has a footer with a field of another type")
    return list(items)


def _number(struct: Struct, field: int) -> int:
    return int(_get(struct, field, int))


def _get(struct: Struct, field: int, type_: type) -> Any:
    found = struct.get(field, (0, None))[1]
    if not isinstance(found, type_):
        raise FooterError("has a footer that lacks a field")
    return found
