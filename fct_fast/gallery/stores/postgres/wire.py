"""PostgreSQL's binary COPY format from numpy and Arrow, for many rows at a time.

A row is a count of fields, then for each a length and its bytes, all big-endian; a NULL has length -1. Integers are
their bytes; pgvector's vectors are int16 dim, int16 unused, then the values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fct_fast.gallery.stores.protocol import Array

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CHUNK_ROWS", "framed", "number_fields", "text_fields", "vector_fields"]

CHUNK_ROWS = 4096
"""Rows that are encoded at once."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # flags 0, no extension
_TRAILER = b"\xff\xff"


def framed(count: int, chunks: Iterator[Sequence[pa.Array]]) -> Iterator[memoryview | bytes]:
    """A binary COPY of rows with `count` fields: for each chunk of rows the pieces of its fields, in order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    first = pa.scalar(count.to_bytes(2, "big"), pa.large_binary())
    nothing = pa.scalar(b"", pa.large_binary())
    yield _HEADER
    for pieces in chunks:
        joined = pc.binary_join_element_wise(first, *pieces, nothing)
        offsets = np.frombuffer(joined.buffers()[1], np.int64)
        yield memoryview(joined.buffers()[2])[int(offsets[0]) : int(offsets[len(joined)])]
    yield _TRAILER


def number_fields(values: Array) -> list[pa.Array]:
    """The pieces of a column of numbers [n] without NULLs."""
    record = np.dtype([("length", ">i4"), ("value", values.dtype.newbyteorder(">"))])
    rows = np.empty(len(values), record)
    rows["length"], rows["value"] = values.dtype.itemsize, values
    return [_binary(rows)]


def vector_fields(values: Array) -> list[pa.Array]:
    """The pieces of a column of vectors [n, dim]."""
    dim, value = values.shape[1], values.dtype.newbyteorder(">")
    rows = np.empty(len(values), [("length", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("value", value, (dim,))])
    rows["length"], rows["dim"], rows["unused"], rows["value"] = 4 + dim * value.itemsize, dim, 0, values
    return [_binary(rows)]


def text_fields(values: pa.Array) -> list[pa.Array]:
    """The pieces of a column of large_binary values, NULLs among them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.binary_length(values), -1).to_numpy(zero_copy_only=False).astype(">i4")
    return [_binary(lengths), pc.fill_null(values, pa.scalar(b"", pa.large_binary()))]


def _binary(records: Array) -> pa.Array:
    """Each record as a large_binary value."""
    import pyarrow as pa

    fixed = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(records.dtype.itemsize), len(records), [None, pa.py_buffer(np.ascontiguousarray(records))]
    )
    return fixed.cast(pa.large_binary())
