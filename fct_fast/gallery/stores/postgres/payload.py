"""Payload columns: which PostgreSQL type holds which Arrow type, and in which bytes its values travel.

What Arrow has a type for travels in it, as the bytes of PostgreSQL's binary format; all else as the text that
PostgreSQL prints and reads, with the PostgreSQL type in the metadata of the field.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["POSTGRES_TYPE", "Kind", "arrow_type", "kind_of"]

POSTGRES_TYPE = b"postgres_type"
"""Metadata of a field that travels as text: its type in PostgreSQL."""

_DAYS = (datetime.date(2000, 1, 1) - datetime.date(1970, 1, 1)).days  # PostgreSQL counts from 2000 on
_MICROSECONDS = _DAYS * 86_400_000_000

# Type -> what sends it, what is sent, what to add for Arrow's count, and a value to stand for NULL.
_NUMBERS = {
    "boolean": ("boolsend", "|u1", 0, "false"),
    "smallint": ("int2send", ">i2", 0, "0"),
    "integer": ("int4send", ">i4", 0, "0"),
    "bigint": ("int8send", ">i8", 0, "0"),
    "real": ("float4send", ">f4", 0, "0"),
    "double precision": ("float8send", ">f8", 0, "0"),
    "date": ("date_send", ">i4", _DAYS, "2000-01-01"),
    "time without time zone": ("time_send", ">i8", 0, "00:00"),
    "timestamp without time zone": ("timestamp_send", ">i8", _MICROSECONDS, "2000-01-01"),
    "timestamp with time zone": ("timestamptz_send", ">i8", _MICROSECONDS, "2000-01-01"),
}


@dataclass(frozen=True)
class Kind:
    """How an Arrow type is held. column: the type of a new column; wire: the one that is sent; arrow: the Arrow type of
    just these values. Of numbers: send, the function that gives their bytes, dtype of these, base of Arrow's count,
    and zero, what stands for NULL; of texts and bytes, dtype is None."""

    column: str
    wire: str
    arrow: pa.DataType
    send: str = ""
    dtype: np.dtype[Any] | None = None
    base: int = 0
    zero: str = ""


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
        return _number("boolean", kind)
    if types.is_uint64(kind):
        return Kind("numeric(20)", "text", pa.string())
    if types.is_integer(kind):
        bits = kind.bit_width * (2 if types.is_unsigned_integer(kind) else 1)
        column = "smallint" if bits <= 16 else "integer" if bits == 32 else "bigint"
        return _number(column, {"smallint": pa.int16(), "integer": pa.int32(), "bigint": pa.int64()}[column])
    if types.is_floating(kind):
        return _number("double precision", kind) if types.is_float64(kind) else _number("real", pa.float32())
    if types.is_timestamp(kind):
        column = "timestamp with time zone" if kind.tz else "timestamp without time zone"
        return _number(column, pa.timestamp("us", "UTC" if kind.tz else None))
    if types.is_date(kind):
        return _number("date", pa.date32())
    if types.is_time(kind):
        return _number("time without time zone", pa.time64("us"))
    if types.is_decimal128(kind) and kind.scale >= 0:
        return Kind(f"numeric({kind.precision},{kind.scale})", "text", pa.string())
    if types.is_binary(kind) or types.is_large_binary(kind):
        return Kind("bytea", "bytea", pa.binary())
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind):
        return Kind("text", "text", pa.string())
    return None


def _number(column: str, arrow: pa.DataType) -> Kind:
    send, dtype, base, zero = _NUMBERS[column]
    return Kind(column, column, arrow, send, np.dtype(dtype), base, zero)
