"""PostgreSQL's binary COPY format, to and from numpy and Arrow, for whole shards at a time.

A row is a count of fields, then for each a length and its bytes, all big-endian; a NULL has length -1. Integers are
their bytes; pgvector's vectors are int16 dim, int16 unused, then the values. Where every field of a row has a fixed
width, rows are an array of records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fct_fast.errors import StoreError
from fct_fast.gallery.stores.protocol import Array

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CHUNK_ROWS", "Fixed", "decode", "framed", "number_fields", "text_fields", "vector_fields"]

CHUNK_ROWS = 4096
"""Rows that are encoded at once."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # flags 0, no extension
_TRAILER = b"\xff\xff"


@dataclass(frozen=True)
class Fixed:
    """A field of a fixed width: a number (dim 0), or a vector of `dim` values. dtype: of one value."""

    dtype: np.dtype[Any]
    dim: int = 0

    @property
    def record(self) -> np.dtype[Any]:
        value = self.dtype.newbyteorder(">")
        if not self.dim:
            return np.dtype([("length", ">i4"), ("value", value)])
        return np.dtype([("length", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("value", value, (self.dim,))])

    @property
    def bytes(self) -> int:
        """Of the field, without its length."""
        return self.record.itemsize - 4


def decode(data: bytes, fields: Sequence[Fixed], where: str) -> list[Array]:
    """The columns of a binary COPY, each [n] or [n, dim] in native order.

    Raises StoreError where a field is NULL or has another width: the table was changed since it was looked at.
    """
    row = np.dtype([("count", ">i2"), *((str(i), field.record) for i, field in enumerate(fields))])
    start, rest = len(_HEADER), len(data) - len(_HEADER) - len(_TRAILER)
    changed = StoreError(
        f"{where} holds a NULL, or a vector of another width, since it was first looked at; freeze the table while a "
        f"job reads it, and start a new job"
    )
    if rest < 0 or rest % row.itemsize or data[:11] != _HEADER[:11]:
        raise changed
    rows = np.frombuffer(data, row, rest // row.itemsize, start)
    good = (rows["count"] == len(fields)).all()
    for i, field in enumerate(fields):
        good &= (rows[str(i)]["length"] == field.bytes).all()
        good &= not field.dim or (rows[str(i)]["dim"] == field.dim).all()
    if not good:
        raise changed
    return [rows[str(i)]["value"].astype(field.dtype) for i, field in enumerate(fields)]


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
    return _fixed_fields(Fixed(values.dtype), values)


def vector_fields(values: Array) -> list[pa.Array]:
    """The pieces of a column of vectors [n, dim]."""
    return _fixed_fields(Fixed(values.dtype, values.shape[1]), values)


def text_fields(values: pa.Array) -> list[pa.Array]:
    """The pieces of a column of large_binary values, NULLs among them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.binary_length(values), -1).to_numpy(zero_copy_only=False).astype(">i4")
    return [_binary(lengths), pc.fill_null(values, pa.scalar(b"", pa.large_binary()))]


def _fixed_fields(field: Fixed, values: Array) -> list[pa.Array]:
    records = np.zeros(len(values), field.record)
    records["length"], records["value"] = field.bytes, values
    if field.dim:
        records["dim"] = field.dim
    return [_binary(records)]


def _binary(records: Array) -> pa.Array:
    """Each record as a large_binary value."""
    import pyarrow as pa

    fixed = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(records.dtype.itemsize), len(records), [None, pa.py_buffer(np.ascontiguousarray(records))]
    )
    return fixed.cast(pa.large_binary())
