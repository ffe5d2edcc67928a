"""Values that a page holds as numbers of entries in a dictionary, found by Arrow.

Arrow has no call that decodes such numbers alone. It is given a small Parquet file in memory instead: one flat column
of int32 with the page as it is, and a dictionary of the values themselves, or of their numbers where they do not fit.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fct_fast.gallery.stores.parquet.thrift import BINARY, I32, I64, LIST, STRUCT, Struct, write_struct
from fct_fast.gallery.stores.protocol import Array

__all__ = ["Dictionary"]

MAGIC = b"PAR1"
INT32, DATA_PAGE, DICTIONARY_PAGE, PLAIN, RLE, RLE_DICTIONARY = 1, 0, 2, 0, 3, 8  # of parquet.thrift


class Dictionary:
    """The dictionary of a column chunk: entries uint8 [n, width]."""

    def __init__(self, entries: Array) -> None:
        width = entries.shape[1]
        self._small = np.dtype(f"<u{width}") if width in (2, 4) else None
        self._entries = entries
        numbers = entries.view(self._small).astype("<u4") if self._small else np.arange(len(entries), dtype="<i4")
        facts: Struct = {1: (I32, len(entries)), 2: (I32, PLAIN)}
        self._page = _page(DICTIONARY_PAGE, 7, facts, numbers.tobytes())

    def look_up(self, data: memoryview, count: int) -> Array | None:
        """The values of `count` encoded numbers, uint8 [count, width]; None where they cannot be decoded."""
        facts: Struct = {1: (I32, count), 2: (I32, RLE_DICTIONARY), 3: (I32, RLE), 4: (I32, RLE)}
        file = _file(self._page, _page(DATA_PAGE, 5, facts, data), count)
        try:
            with pq.ParquetFile(pa.BufferReader(file)) as reader:
                found = reader.read(use_threads=False).column(0).to_numpy()
        except (pa.ArrowException, OSError):
            return None
        if len(found) != count:
            return None
        values: Array = found.astype(self._small, copy=False) if self._small else self._entries[found]
        return values.view(np.uint8).reshape(count, -1)


def _page(kind: int, field: int, facts: Struct, body: bytes | memoryview) -> bytes:
    size = (I32, len(body))
    return b"".join([write_struct({1: (I32, kind), 2: size, 3: size, field: (STRUCT, facts)}), body])


def _file(dictionary: bytes, page: bytes, count: int) -> bytes:
    size = (I64, len(dictionary) + len(page))
    meta: Struct = {
        1: (I32, INT32),
        2: (LIST, (I32, [PLAIN, RLE, RLE_DICTIONARY])),
        3: (LIST, (BINARY, [b"v"])),
        4: (I32, 0),  # not compressed
        5: (I64, count),
        6: size,
        7: size,
        9: (I64, len(MAGIC) + len(dictionary)),
        11: (I64, len(MAGIC)),
    }
    group: Struct = {1: (LIST, (STRUCT, [{2: (I64, 0), 3: (STRUCT, meta)}])), 2: size, 3: (I64, count)}
    root: Struct = {4: (BINARY, b"schema"), 5: (I32, 1)}
    leaf: Struct = {1: (I32, INT32), 3: (I32, 0), 4: (BINARY, b"v")}  # required: no levels
    footer = write_struct(
        {
            1: (I32, 2),
            2: (LIST, (STRUCT, [root, leaf])),
            3: (I64, count),
            4: (LIST, (STRUCT, [group])),
        }
    )
    return b"".join([MAGIC, dictionary, page, footer, len(footer).to_bytes(4, "little"), MAGIC])
