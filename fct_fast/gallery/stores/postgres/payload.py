"""Payload columns: PostgreSQL types and Arrow types, each to the other, without loss.

What Arrow has a type for travels in it; all else as the text that PostgreSQL prints and reads, with the PostgreSQL
type in the metadata of the field. Columns are read as CSV, parsed by Arrow, and written as the bytes of binary COPY.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fct_fast.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Kind", "arrow_type", "kind_of", "parse_csv", "restored", "wire_pieces"]

POSTGRES_TYPE = b"postgres_type"
"""Metadata of a field that travels as text: its type in PostgreSQL."""

_DAYS = (datetime.date(2000, 1, 1) - datetime.date(1970, 1, 1)).days  # PostgreSQL counts from 2000 on
_MICROSECONDS = _DAYS * 86_400_000_000


@dataclass(frozen=True)
class Kind:
    """How an Arrow type is held: column, the type of a new column; wire, the type that is sent; csv, the Arrow type
    that its printed form is parsed as."""

    column: str
    wire: str
    csv: pa.DataType


def arrow_type(postgres: str, *, times: bool = True) -> pa.DataType | None:
    """The Arrow type with the values of a PostgreSQL type (its name in pg_type), None where it travels as text. times:
    whether Arrow can hold its dates and times, which is not so for infinity and for years beyond 9999."""
    import pyarrow as pa

    plain = {
        "bool": pa.bool_(),
        "int2": pa.int16(),
        "int4": pa.int32(),
        "int8": pa.int64(),
        "float4": pa.float32(),
        "float8": pa.float64(),
        "text": pa.string(),
        "bytea": pa.binary(),
    }
    dated = {"timestamp": pa.timestamp("us"), "timestamptz": pa.timestamp("us", "UTC"), "date": pa.date32()}
    return {**plain, **(dated if times else {})}.get(postgres)


def kind_of(kind: pa.DataType) -> Kind | None:
    """How a column of an Arrow type is held, None where it cannot be."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if types.is_boolean(kind):
        return Kind("boolean", "boolean", kind)
    if types.is_uint64(kind):
        return Kind("numeric(20)", "text", kind)
    if types.is_integer(kind):
        column = {1: "smallint", 2: "smallint", 4: "integer", 8: "bigint"}[kind.bit_width // 8 * (1 + _unsigned(kind))]
        return Kind(column, column, kind)
    if types.is_floating(kind):
        column = "double precision" if types.is_float64(kind) else "real"
        return Kind(column, column, kind if types.is_float64(kind) else pa.float32())
    if types.is_timestamp(kind):
        column = "timestamp with time zone" if kind.tz else "timestamp without time zone"
        return Kind(column, column, pa.timestamp("us", "UTC" if kind.tz else None))
    if types.is_date(kind):
        return Kind("date", "date", pa.date32())
    if types.is_time(kind):
        return Kind("time without time zone", "text", pa.time64("us"))
    if types.is_decimal128(kind) and kind.scale >= 0:
        return Kind(f"numeric({kind.precision},{kind.scale})", "text", kind)
    if types.is_binary(kind) or types.is_large_binary(kind):
        return Kind("bytea", "bytea", pa.string())  # printed in hexadecimal
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind):
        return Kind("text", "text", pa.string())
    return None


def parse_csv(data: bytes, names: Sequence[str], kinds: Sequence[pa.DataType], where: str) -> pa.Table:
    """The table that `COPY ... TO STDOUT (FORMAT CSV, FORCE_QUOTE *)` gave: an unquoted empty field is NULL."""
    import pyarrow as pa
    from pyarrow import csv

    places = [f"{number}" for number in range(len(names))]  # names may occur twice to Arrow, or be of any text
    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            read_options=csv.ReadOptions(
                column_names=places, use_threads=False, block_size=min(len(data) + 1, 2**31 - 1)
            ),
            parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types=dict(zip(places, kinds, strict=True)),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=["t"],
                false_values=["f"],
            ),
        )
    except pa.ArrowInvalid as error:
        if not data:
            return pa.table({name: pa.array([], kind) for name, kind in zip(names, kinds, strict=True)})
        raise StoreError(
            f"{where} holds a value that does not fit its column in Arrow ({str(error).splitlines()[0]}); leave the "
            f"payload behind, or correct the value"
        ) from error
    return table.rename_columns(list(names))


def restored(column: pa.ChunkedArray, kind: pa.DataType, where: str) -> pa.ChunkedArray:
    """A column as `kind_of(kind).csv` back in its own type; of a dictionary, in the type of its values."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        values = [None if text is None else bytes.fromhex(text[2:]) for text in column.to_pylist()]
        return pa.chunked_array([pa.array(values, kind)])
    if pa.types.is_null(kind):
        return pa.chunked_array([pa.nulls(len(column))])
    try:
        return column if column.type == kind else column.cast(kind)
    except pa.ArrowInvalid as error:
        raise StoreError(f"{where} holds a value that was not written by this job ({error})") from error


def wire_pieces(column: pa.ChunkedArray, where: str) -> list[pa.Array]:
    """The pieces of a column for `wire.framed`. Raises StoreError for a value that PostgreSQL cannot hold."""
    import pyarrow as pa

    from fct_fast.gallery.stores.postgres.wire import text_fields

    try:
        return text_fields(_wire_values(_plain(column)))
    except (pa.ArrowInvalid, OverflowError) as error:
        raise StoreError(
            f"{where} cannot keep a value of its payload ({error}); correct it, or leave the payload behind"
        ) from error


def _wire_values(column: pa.Array) -> pa.Array:
    """The bytes of each value as large_binary, NULLs kept."""
    import pyarrow as pa

    kind = kind_of(column.type)
    assert kind is not None
    if kind.wire == "bytea":
        return column.cast(pa.large_binary())
    if kind.wire == "text":
        text = column.cast(pa.time64("us")) if pa.types.is_time(column.type) else column
        return text.cast(pa.large_string()).cast(pa.large_binary())
    values = np.ascontiguousarray(_numbers(column.cast(kind.csv), kind))
    width = values.dtype.itemsize
    fixed = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(values), [_validity(column), pa.py_buffer(values)]
    )
    return fixed.cast(pa.large_binary())


def _numbers(column: pa.Array, kind: Kind) -> np.ndarray[Any, Any]:
    """The values as PostgreSQL's own numbers, big-endian; what stands for a NULL does not matter."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def plain(as_type: pa.DataType) -> np.ndarray[Any, Any]:
        values: np.ndarray[Any, Any] = pc.fill_null(column.cast(as_type), pa.scalar(0, as_type)).to_numpy()
        return values

    if kind.wire == "boolean":
        return plain(pa.uint8()).astype(np.uint8)
    if kind.wire.startswith("timestamp"):
        values = plain(pa.int64())
        if len(values) and values.min() < _MICROSECONDS - 2**63:
            raise OverflowError("a time before the year -290000")
        return (values - _MICROSECONDS).astype(">i8")
    if kind.wire == "date":
        return (plain(pa.int32()).astype(np.int64) - _DAYS).astype(">i4")
    dtype = {"smallint": ">i2", "integer": ">i4", "bigint": ">i8", "real": ">f4", "double precision": ">f8"}[kind.wire]
    if dtype[1] == "f":
        values = plain(column.type).copy()
        values[np.isnan(values)] = np.nan  # PostgreSQL knows one NaN
        return values.astype(dtype)
    return plain(pa.int64()).astype(dtype)


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """As one array, a dictionary as its values."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _validity(column: pa.Array) -> Any:
    return None if not column.null_count else column.is_valid().buffers()[1]


def _unsigned(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_unsigned_integer(kind))
