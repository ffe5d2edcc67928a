"""The footer of Parquet files: several files joined to one under a common footer, and cut out of it again.

The data of a file stand between the four bytes at its begin and its footer. To join files, their data are put one after
the other as they are, and the row groups of their footers, whose offsets are moved along, into one footer. Nothing is
decoded, and cutting gives back the very bytes of each file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from fct_fast.gallery.stores.parquet.thrift import (
    BINARY,
    I64,
    LIST,
    STRUCT,
    Struct,
    ThriftError,
    read_struct,
    write_struct,
)

__all__ = [
    "MAGIC",
    "FooterError",
    "cut",
    "data_start",
    "footer_size",
    "group_rows",
    "join",
    "metadata",
    "parse",
    "seal",
]

MAGIC = b"PAR1"
TAIL = 8  # bytes after the footer: its length, and the magic

# Fields of parquet.thrift.
NUM_ROWS, ROW_GROUPS, KEY_VALUES = 3, 4, 5
COLUMNS, GROUP_ROWS, GROUP_OFFSET = 1, 3, 5
CHUNK_OFFSET, CHUNK_META, OFFSET_INDEX, COLUMN_INDEX = 2, 3, 4, 6
DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, BLOOM_FILTER = 9, 10, 11, 14


class FooterError(ValueError):
    """Bytes that are no footer, or not one that `join` made."""


def footer_size(tail: bytes) -> int:
    """The length of a footer, from the last bytes of its file."""
    if len(tail) < TAIL or tail[-4:] != MAGIC:
        raise FooterError("does not end as Parquet files do")
    return int.from_bytes(tail[-8:-4], "little")


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
    """The rows of each row group."""
    return [_get(group, GROUP_ROWS) for group in _groups(footer)]


def data_start(footer: Struct, group: int) -> int:
    """Where the data of a row group begin."""
    metas = [_get(chunk, CHUNK_META) for chunk in _get(_groups(footer)[group], COLUMNS)[1]]
    return min(int(meta[field][1]) for meta in metas for field in (DATA_PAGE, DICTIONARY_PAGE) if field in meta)


def metadata(footer: Struct) -> dict[bytes, bytes]:
    """The key-value metadata."""
    return {_get(pair, 1): _get(pair, 2) for pair in _get(footer, KEY_VALUES)[1]}


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
        for group in _groups(footer):
            groups.append(_moved(group, length))
            rows += _get(group, GROUP_ROWS)
        length += size
    pairs = _get(whole, KEY_VALUES)[1] + [{1: (BINARY, key), 2: (BINARY, value)} for key, value in extra.items()]
    return _with(whole, rows, groups, pairs)


def cut(whole: Struct, first: int, stop: int, before: int, extra: Sequence[bytes]) -> Struct:
    """The footer of the file that the row groups first to stop of a joined one came from. before: the length of the
    data before these; extra: keys of the metadata that joining added."""
    groups = [_moved(group, -before) for group in _groups(whole)[first:stop]]
    pairs = [pair for pair in _get(whole, KEY_VALUES)[1] if _get(pair, 1) not in extra]
    return _with(_head(whole), sum(_get(group, GROUP_ROWS) for group in groups), groups, pairs)


def _with(head: Struct, rows: int, groups: list[Struct], pairs: list[Struct]) -> Struct:
    changed: Struct = {
        NUM_ROWS: (I64, rows),
        ROW_GROUPS: (LIST, (STRUCT, groups)),
        KEY_VALUES: (LIST, (STRUCT, pairs)),
    }
    return {field: changed.get(field, value) for field, value in head.items()}


def _head(footer: Struct) -> Struct:
    """All that is no row group, with rows and groups left blank."""
    if not {NUM_ROWS, ROW_GROUPS, KEY_VALUES} <= set(footer):
        raise FooterError("has a footer that lacks a field")
    return footer | {NUM_ROWS: (I64, 0), ROW_GROUPS: (LIST, (STRUCT, []))}


def _moved(group: Struct, by: int) -> Struct:
    """A row group whose data are moved."""
    moved = copy.deepcopy(group)
    _shift(moved, by, GROUP_OFFSET)
    for chunk in _get(moved, COLUMNS)[1]:
        _shift(chunk, by, CHUNK_OFFSET, OFFSET_INDEX, COLUMN_INDEX)
        _shift(_get(chunk, CHUNK_META), by, DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, BLOOM_FILTER)
    return moved


def _shift(struct: Struct, by: int, *fields: int) -> None:
    for field in fields:
        if field in struct and struct[field][1]:  # 0: not used
            struct[field] = (struct[field][0], struct[field][1] + by)


def _groups(footer: Struct) -> list[Struct]:
    return list(_get(footer, ROW_GROUPS)[1])


def _get(struct: Struct, field: int) -> Any:
    try:
        return struct[field][1]
    except (KeyError, TypeError, AttributeError) as error:
        raise FooterError("has a footer that lacks a field") from error
