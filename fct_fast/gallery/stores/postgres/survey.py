"""Looks at all rows of a table: what tells it from a changed one, and whether its rows can be read.

Every row version carries the number of the transaction that wrote it, `xmin`. Their hash with the key, summed over all
rows, changes with every INSERT, UPDATE and DELETE, and with nothing else: freezing keeps xmin, and VACUUM FULL and
CLUSTER carry it over. (A change goes unseen only if a row is written again exactly 2**32 transactions later.) It costs
one scan of the table, in parallel where the server can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from fct_fast.errors import ShapeError, StoreError
from fct_fast.gallery.stores.postgres.database import Database, compose
from fct_fast.gallery.stores.postgres.table import Column, Table, held_table

__all__ = ["Survey", "described", "identity_of", "survey"]

_VERSIONS: LiteralString = (
    'coalesce(sum(hashtextextended({}::text COLLATE "C", xmin::text::bigint)), 0)::text'  # of the key
)


@dataclass(frozen=True)
class Survey:
    """What a look at all rows found. versions: the sum over the hashes of the row versions; dims: widths of the vector
    columns, by name; widest: the most characters of a text key, 0 for other keys; timely: the columns of dates and
    times whose values Arrow can hold."""

    rows: int
    versions: str
    dims: dict[str, int]
    widest: int
    timely: frozenset[str]


def identity_of(db: Database, oid: int, key: str, where: str) -> dict[str, Any]:
    """What tells a table from another and from a changed one, as plain JSON values; looks at all rows."""
    with db.reading():
        table = held_table(db, oid, where)
        column = table.column(key)
        if column is None:
            raise StoreError(f"{where} lost its column {key!r:.80}; restore it, or start a new job")
        rows, versions = db.one(
            compose("SELECT count(*), {versions} FROM {t}", versions=_about(_VERSIONS, column), t=table.identifier)
        )
        return described(db, table, column, rows, versions)


def described(db: Database, table: Table, key: Column, rows: int, versions: str) -> dict[str, Any]:
    """As `identity_of`, with what a look at all rows found."""
    server, database = db.identity()
    return {
        "server": server,
        "database": database,
        "table": table.oid,
        "key": key.name,
        "order": key.collation,
        "columns": {column.name: column.type for column in table.columns},
        "rows": rows,
        "versions": versions,
    }


def survey(db: Database, table: Table, key: Column, vectors: Sequence[Column], where: str) -> Survey:
    """Look at all rows once. Raises StoreError naming the first row without a vector, ShapeError where the vectors of
    a column have several widths."""
    texts = [key] if key.kind in ("text", "varchar") else []
    loose = [column for column in vectors if not column.dim]
    times = [column for column in table.columns if column.kind in ("timestamp", "timestamptz", "date")]
    asked: list[sql.Composable] = [sql.SQL("count(*)"), _about(_VERSIONS, key)]
    asked += [_about("count({})", column) for column in vectors]
    asked += [_about("max(char_length({}))", column) for column in texts]
    asked += [_about("min(array_length({}::real[], 1))", column) for column in loose]
    asked += [_about("max(array_length({}::real[], 1))", column) for column in loose]
    asked += [_about("bool_and({0} >= '0001-01-01' AND {0} < '10000-01-01')", column) for column in times]
    found = iter(db.one(sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(asked), table.identifier)))
    rows, versions = next(found), next(found)
    for column in vectors:
        if next(found) < rows:
            raise _no_vector(db, table, key, column, where)
    widest = max((next(found) or 0 for _ in texts), default=0)
    low, high = [next(found) for _ in loose], [next(found) for _ in loose]
    for column, least, most in zip(loose, low, high, strict=True):
        if least != most:
            raise ShapeError(
                f"{where}: the vectors of {column.name!r:.80} have {least} to {most} values; a gallery has one width"
            )
    dims = {column.name: column.dim for column in vectors}
    dims |= {column.name: least or 0 for column, least in zip(loose, low, strict=True)}
    return Survey(rows, versions, dims, widest, frozenset(column.name for column in times if next(found) is not False))


def _about(text: LiteralString, column: Column) -> sql.Composed:
    return sql.SQL(text).format(column.identifier)


def _no_vector(db: Database, table: Table, key: Column, column: Column, where: str) -> StoreError:
    first, count = db.one(
        compose(
            "SELECT (SELECT {key}::text FROM {table} WHERE {column} IS NULL ORDER BY {key} LIMIT 1), "
            "(SELECT count(*) FROM {table} WHERE {column} IS NULL)",
            key=key.identifier,
            table=table.identifier,
            column=column.identifier,
        )
    )
    return StoreError(
        f"{where}: {column.name!r:.80} is NULL in {count} rows, the first has the id {first!s:.80}; fill them in, or "
        f"delete these rows, so that every row can be upgraded"
    )
