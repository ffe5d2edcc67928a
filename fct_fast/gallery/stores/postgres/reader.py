"""Rows of one SELECT as arrays, with no work for each row on this side.

The server joins the binary forms of a column's values into one value, `string_agg(vector_send(...), '')`, for some
thousand rows at a time: one answer has them all, and numpy and Arrow take its columns as they are. (A COPY gives a
message for each row, and its handling costs more than all else.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg import sql

from fct_fast.errors import StoreError
from fct_fast.gallery.stores.postgres.cells import numbers, restored, texts
from fct_fast.gallery.stores.postgres.database import Database, compose, trusted
from fct_fast.gallery.stores.postgres.payload import Kind, kind_of
from fct_fast.gallery.stores.protocol import Array

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BATCH_BYTES", "Found", "Vectors", "Wanted", "joined", "read_rows"]

BATCH_BYTES = 12 << 20
"""Of one answer, about; the server holds it twice, and cannot build one of more than 1 GiB."""


@dataclass(frozen=True)
class Vectors:
    """A column of vectors that is wanted: of `dim` values of `dtype`; send: what gives their binary form."""

    expression: sql.Composable
    send: str
    dtype: np.dtype[Any]
    dim: int


@dataclass(frozen=True)
class Wanted:
    """What to read: integers and vectors, of which none is NULL, and other columns by name, each in an Arrow type."""

    integers: Sequence[sql.Composable]
    vectors: Sequence[Vectors]
    others: Mapping[str, tuple[sql.Composable, pa.DataType]]


@dataclass(frozen=True)
class Found:
    """The rows of a SELECT: integers [n], int64; vectors [n, dim]; table, the others (None for none)."""

    rows: int
    integers: list[Array]
    vectors: list[Array]
    table: pa.Table | None


def read_rows(db: Database, rest: sql.Composable, wanted: Wanted, where: str) -> Found:
    """Run `SELECT ... rest`. Raises StoreError naming `where`; where an integer or vector is NULL, or a vector of
    another width, the table was changed since it was looked at."""
    import pyarrow as pa

    kinds = {name: _kind(kind) for name, (_, kind) in wanted.others.items()}
    answer = iter(db.one_binary(_query(rest, wanted, list(kinds.values()))))
    count: int = next(answer)
    integers = [_integers(next(answer), count, where) for _ in wanted.integers]
    vectors = [_vectors(next(answer), count, column, where) for column in wanted.vectors]
    columns = []
    for name, kind in kinds.items():
        read = texts if kind.dtype is None else numbers
        values = read(next(answer) or b"", next(answer) or b"", kind)
        columns.append(restored(values, wanted.others[name][1], where))
    return Found(count, integers, vectors, pa.Table.from_arrays(columns, names=list(kinds)) if kinds else None)


def joined(parts: Iterable[Found]) -> Found:
    """The rows of all parts, at least one, after each other."""
    import pyarrow as pa

    found = list(parts)
    if len(found) == 1:
        return found[0]
    tables = [part.table for part in found if part.table is not None]
    return Found(
        sum(part.rows for part in found),
        [np.concatenate(columns) for columns in zip(*(part.integers for part in found), strict=True)],
        [np.concatenate(columns) for columns in zip(*(part.vectors for part in found), strict=True)],
        pa.concat_tables(tables) if tables else None,
    )


def _query(rest: sql.Composable, wanted: Wanted, kinds: Sequence[Kind]) -> sql.Composed:
    inner: list[sql.Composable] = []
    outer: list[sql.Composable] = [sql.SQL("count(*)")]

    def add(expression: sql.Composable, *aggregates: str) -> None:
        name = f"c{len(inner)}"
        inner.append(compose("{value} AS {name}", value=expression, name=sql.Identifier(name)))
        outer.extend(trusted(f"string_agg({aggregate.format(name)}, '')") for aggregate in aggregates)

    for expression in wanted.integers:
        add(compose("({value})::bigint", value=expression), "int8send({})")
    for column in wanted.vectors:
        add(column.expression, f"{column.send}({{}})")
    for (expression, _), kind in zip(wanted.others.values(), kinds, strict=True):
        if kind.dtype is not None:
            add(expression, f"{kind.send}(coalesce({{}}, '{kind.zero}'))", "boolsend({} IS NULL)")
            continue
        if kind.wire == "text":
            expression = compose("convert_to(({value})::text, 'UTF8')", value=expression)
        add(expression, "{}", "int4send(coalesce(octet_length({}), -1))")
    return compose(
        "SELECT {outer} FROM (SELECT {inner} {rest}) r",
        outer=sql.SQL(", ").join(outer),
        inner=sql.SQL(", ").join(inner),
        rest=rest,
    )


def _integers(data: bytes | None, count: int, where: str) -> Array:
    values = np.frombuffer(data or b"", ">i8")
    if len(values) != count:
        raise _changed(where)
    return values.astype(np.int64)


def _vectors(data: bytes | None, count: int, column: Vectors, where: str) -> Array:
    """pgvector's binary form: int16 dim, int16 unused, then the values, all big-endian."""
    record = np.dtype([("dim", ">i2"), ("unused", ">i2"), ("value", column.dtype.newbyteorder(">"), (column.dim,))])
    if len(data or b"") != count * record.itemsize:
        raise _changed(where)
    rows = np.frombuffer(data or b"", record)
    if not (rows["dim"] == column.dim).all():
        raise _changed(where)
    return rows["value"].astype(column.dtype)


def _kind(wanted: pa.DataType) -> Kind:
    kind = kind_of(wanted)
    assert kind is not None
    return kind


def _changed(where: str) -> StoreError:
    return StoreError(
        f"{where} holds a NULL, or a vector of another width, since it was first looked at; freeze the table while a "
        f"job reads it, and start a new job"
    )
