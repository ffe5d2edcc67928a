"""Positions and keys: where a shard starts, in the order of the key.

A shard goes on from the last key of the one before, by the index of the key (`WHERE key > x ORDER BY key LIMIT n`);
only the first one after a start looks for its place by OFFSET, in the index alone. The order is that of the key's own
index, a text key's collation included, whose version is part of the identity: an order of our own (COLLATE "C") would
sort the whole table for each shard.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from psycopg import sql

from fct_fast.gallery.stores.postgres.database import Database, compose, trusted
from fct_fast.gallery.stores.postgres.table import Column

__all__ = ["INTEGERS", "Keyset", "ids_dtype"]

INTEGERS: dict[str, np.dtype[Any]] = {"int2": np.dtype("<i2"), "int4": np.dtype("<i4"), "int8": np.dtype("<i8")}
"""The types of keys that are numbers; all others travel as text."""

_UUID_WIDTH = 36


def ids_dtype(key: Column, widest: int) -> np.dtype[Any]:
    """The dtype of the ids from a key; widest: the most characters of a text."""
    if key.kind in INTEGERS:
        return INTEGERS[key.kind]
    return np.dtype(f"<U{_UUID_WIDTH if key.kind == 'uuid' else max(1, widest)}")


class Keyset:
    """The key of a table, as the order of its rows. All that it gives is to be used in the same transaction."""

    def __init__(self, db: Database, key: Column) -> None:
        self._db, self._key = db, key
        self._stop: int = 0
        self._last: Any = None

    def remember(self, stop: int, last: Any) -> None:
        """A shard ended at the position `stop`, with the key `last`."""
        self._stop, self._last = stop, last

    def rows(self, table: sql.Identifier, start: int, count: int) -> sql.Composed:
        """FROM and the rest of a SELECT for `count` rows from a position on."""
        after: sql.Composable = sql.SQL("")
        if start:
            last = sql.Literal(self._before(table, start))
            after = compose("WHERE {key} > {last}", key=self._key.identifier, last=last)
        return compose(
            "FROM {table} {after} ORDER BY {key} LIMIT {count}",
            table=table,
            after=after,
            key=self._key.identifier,
            count=sql.Literal(count),
        )

    def all_rows(self, table: sql.Identifier) -> sql.Composed:
        return compose("FROM {table} ORDER BY {key}", table=table, key=self._key.identifier)

    def some_rows(self, table: sql.Identifier, share: float, most: int) -> sql.Composed:
        """For about a share of the rows, those of pages spread over the table: the same as long as it is."""
        return compose(
            "FROM {table} TABLESAMPLE SYSTEM ({percent}) REPEATABLE (0) ORDER BY {key} LIMIT {most}",
            table=table,
            percent=sql.Literal(100 * share),
            key=self._key.identifier,
            most=sql.Literal(most),
        )

    def rows_of(self, table: sql.Identifier, keys: list[Any]) -> sql.Composed:
        """For the rows with these keys, in the order of the key."""
        return compose(
            "FROM {table} WHERE {key} = ANY({keys}::{kind}[]) ORDER BY {key}",
            table=table,
            key=self._key.identifier,
            keys=sql.Literal(keys),
            kind=trusted(self._key.kind),
        )

    def at(self, table: sql.Identifier, positions: npt.NDArray[np.int64]) -> list[Any]:
        """The keys at some rising positions, from one walk over the index."""
        found = self._db.rows(
            compose(
                "SELECT {key}{text} FROM (SELECT {key}, row_number() OVER (ORDER BY {key}) - 1 AS n FROM {table}) k "
                "WHERE n = ANY({positions}::bigint[]) ORDER BY n",
                key=self._key.identifier,
                text=self._as_text,
                table=table,
                positions=sql.Literal(positions.tolist()),
            )
        )
        return [key for (key,) in found]

    def _before(self, table: sql.Identifier, start: int) -> Any:
        """The key of the row before a position; NULL, which no row follows, where the table is shorter."""
        if self._stop != start:
            found = self._db.rows(
                compose(
                    "SELECT {key}{text} FROM {table} ORDER BY {key} OFFSET {skip} LIMIT 1",
                    key=self._key.identifier,
                    text=self._as_text,
                    table=table,
                    skip=sql.Literal(start - 1),
                )
            )
            self.remember(start, found[0][0] if found else None)
        return self._last

    @property
    def _as_text(self) -> sql.SQL:
        return sql.SQL("" if self._key.kind in INTEGERS else "::text")
