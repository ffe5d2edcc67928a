"""Reading a gallery from a PostgreSQL table: rows in the order of their key, each shard in one snapshot.

A shard goes on from the last key of the one before (`WHERE key > x ORDER BY key LIMIT n`, by the index of the key);
only the first one after a start looks for its place by OFFSET, in the index alone. The order is that of the key's own
index, a text key's collation included, whose version is part of the identity: an order of our own (COLLATE "C") would
sort the whole table for each shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psycopg import sql

from fct_fast.errors import ConfigError, SpaceError, StoreError
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.postgres.database import Database, compose, trusted
from fct_fast.gallery.stores.postgres.payload import POSTGRES_TYPE, arrow_type
from fct_fast.gallery.stores.postgres.reader import Found, read_rows
from fct_fast.gallery.stores.postgres.stamp import read_stamp
from fct_fast.gallery.stores.postgres.survey import identity_of, survey
from fct_fast.gallery.stores.postgres.table import (
    Table,
    find_table,
    held_table,
    key_column,
    named_table,
    vector_column,
)
from fct_fast.gallery.stores.postgres.twins import vector_indexes
from fct_fast.gallery.stores.postgres.wire import Fixed
from fct_fast.gallery.stores.protocol import Array, Capabilities, Columns, Rows, Shard, spread
from fct_fast.space import SpaceFingerprint

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PostgresSource"]

_INTEGERS: dict[str, np.dtype[Any]] = {"int2": np.dtype("<i2"), "int4": np.dtype("<i4"), "int8": np.dtype("<i8")}
_VECTORS: dict[str, np.dtype[Any]] = {"vector": np.dtype("<f4"), "halfvec": np.dtype("<f2")}
_UUID_WIDTH = 36
_MEASURED_ROWS = 64  # whose payload tells the bytes of a row


class PostgresSource:
    """A table with a column of vectors; see `protocol.Source`. Raises ConfigError, StoreError, DtypeError, ShapeError,
    SpaceError where it cannot be read as a gallery."""

    capabilities = Capabilities(atomic_swap=True, ids=True, payload=True, snapshot=False)

    def __init__(self, columns: Columns) -> None:
        for place in (columns.side, columns.ids):
            if place is not None and place.gallery != columns.old.gallery:
                raise ConfigError(f"{place} is another table than {columns.old}; name a column of the same one, #NAME")
        self._where = columns.old
        self._db = Database(columns.old)
        try:
            with self._db.reading():
                self._open(columns)
        except BaseException:
            self._db.close()
            raise

    def _open(self, columns: Columns) -> None:
        db, place = self._db, columns.old
        self._table = table = _table_of(db, place)
        if table.kind not in "rp":
            raise StoreError(f"{place} is no table, so changes to its rows cannot be noticed; name the table under it")
        if db.rows("SELECT 1 FROM pg_inherits WHERE inhparent = %s", [table.oid]) and table.kind == "r":
            raise StoreError(f"{place} has child tables, whose rows its keys do not cover; name one of the children")
        self._key = key_column(db, table, place, columns.ids.column if columns.ids is not None else "")
        self._vectors = {"old": vector_column(table, place)}
        if columns.side is not None:
            self._vectors["side"] = vector_column(table, columns.side)
        found = survey(db, table, self._key, list(self._vectors.values()), str(place))
        if not found.rows:
            raise StoreError(f"{place} has no rows; there is nothing to upgrade")
        self.rows = found.rows
        self.dims = {name: found.dims[column.name] for name, column in self._vectors.items()}
        self._server, self._database = db.identity()
        self.places = self._places(columns)
        self.ids_dtype = _INTEGERS.get(self._key.kind) or np.dtype(
            f"<U{_UUID_WIDTH if self._key.kind == 'uuid' else max(1, found.widest)}"
        )
        own = {self._key.name, *(column.name for column in self._vectors.values())}
        others = [column for column in table.columns if column.name not in own]
        self._payload = {
            column.name: arrow_type(column.kind, times=column.name in found.timely)
            for column in others
            if not column.generated
        }
        generated = [column.name for column in others if column.generated]
        self.notes: Sequence[str] = (
            [f"Generated columns of {place} ({', '.join(generated)}) are computed anew, or left out."]
            if generated
            else []
        )
        self._indexes = vector_indexes(db, table, self._vectors["old"])
        self.payload = self._schema()
        self.spaces = dict(self._read_spaces())
        self._seen: dict[str, Any] = {}
        self._last: tuple[int, Any] = (0, None)  # where a read ended: its position, and the last key
        self._keys: npt.NDArray[Any] | None = None
        self.row_bytes = self._measured_bytes()

    @property
    def held_bytes(self) -> int:
        return 0 if self._keys is None else self._keys.nbytes

    @property
    def form(self) -> Mapping[str, Any]:
        side = self._vectors.get("side")
        return {
            "store": "postgres",
            "id": self._key.name,
            "vector": self._vectors["old"].name,
            "side": None if side is None else side.name,
            "id_type": self._key.type,
            "kind": self._vectors["old"].vector,
            "server": self._server,
            "database": self._database,
            "oid": self._table.oid,
            "schema": self._table.schema,
            "table": self._table.name,
            "columns": list(self._payload),
            "indexes": self._indexes,
            "identity": self._seen or self.identity(),
        }

    def identity(self) -> dict[str, Any]:
        self._seen = identity_of(self._db, self._table.oid, self._key.name, str(self._where))
        return dict(self._seen)

    def read(self, shard: Shard) -> Rows:
        with self._db.reading():
            table = self._held()
            after = self._key_before(table, shard.start)
            found = self._select(
                compose(
                    "FROM {table} {where} ORDER BY {key} LIMIT {count}",
                    table=table.identifier,
                    where=sql.SQL("")
                    if after is None
                    else compose("WHERE {key} > {after}", key=self._key.identifier, after=sql.Literal(after)),
                    key=self._key.identifier,
                    count=sql.Literal(shard.rows),
                ),
                payload=True,
            )
        rows = self._rows(found, shard.rows)
        assert rows.ids is not None
        self._last = shard.stop, rows.ids[-1].item()
        return rows

    def take(self, positions: npt.NDArray[np.int64]) -> Rows:
        wanted, inverse = np.unique(positions, return_inverse=True)
        with self._db.reading():
            table = self._held()
            keys = self._keys[wanted].tolist() if self._keys is not None else self._keys_at(table, wanted)
            found = self._select(
                compose(
                    "FROM {table} WHERE {key} = ANY({keys}::{kind}[]) ORDER BY {key}",
                    table=table.identifier,
                    key=self._key.identifier,
                    keys=sql.Literal(keys),
                    kind=trusted(self._key.kind),
                ),
                payload=False,
            )
        rows = self._rows(found, len(wanted))
        return Rows(
            rows.old[inverse],
            None if rows.side is None else rows.side[inverse],
            None if rows.ids is None else rows.ids[inverse],
        )

    def sample(self, count: int) -> Rows:
        return self.take(spread(self.rows, count))

    def all_ids(self) -> Array:
        """Kept, so that a join by id finds rows at positions quickly; `held_bytes` counts them."""
        if self._keys is None:
            with self._db.reading():
                rest = compose("FROM {table} ORDER BY {key}", table=self._held().identifier, key=self._key.identifier)
                self._keys = self._ids(self._select(rest, payload=False, vectors=False))
        return self._keys

    def overlaps(self, place: Place) -> bool:
        if not place.scheme.startswith("postgres") or "table" not in place.options:
            return False
        other = Database(place)
        try:
            with other.reading():
                if other.identity() != (self._server, self._database):
                    return False
                table = find_table(other, named_table(other, place.options["table"]))
                return table is not None and table.oid == self._table.oid
        finally:
            other.close()

    def close(self) -> None:
        self._db.close()

    def _held(self) -> Table:
        return held_table(self._db, self._table.oid, str(self._where))

    def _places(self, columns: Columns) -> dict[str, str]:
        """With the table's oid, by which it is found also after a cutover gave it another name."""
        options = {**columns.old.options, "oid": str(self._table.oid)}
        named = {name: column.name for name, column in self._vectors.items()}
        if columns.ids is not None:
            named["ids"] = self._key.name
        return {name: str(Place(columns.old.location, options, column)) for name, column in named.items()}

    def _schema(self) -> bytes:
        import pyarrow as pa

        if not self._payload:
            return b""
        fields = []
        for name, kind in self._payload.items():
            column = self._table.column(name)
            assert column is not None
            described = {} if kind is not None else {POSTGRES_TYPE: column.type.encode()}
            fields.append(pa.field(name, pa.string() if kind is None else kind, metadata=described))
        schema: bytes = pa.schema(fields).serialize().to_pybytes()
        return schema

    def _read_spaces(self) -> Iterator[tuple[str, SpaceFingerprint]]:
        for name, column in self._vectors.items():
            space = read_stamp(self._db, self._table, column)
            if space is None:
                continue
            if space.dim != self.dims[name]:
                raise SpaceError(
                    f"the comment of {column.name!r:.80} in {self._where} describes rows of {space.dim} values, but "
                    f"they have {self.dims[name]}; correct it with COMMENT ON COLUMN"
                )
            yield name, space

    def _measured_bytes(self) -> int:
        found = self._select(
            compose("FROM {table} LIMIT {n}", table=self._table.identifier, n=sql.Literal(_MEASURED_ROWS)), payload=True
        )
        payload = 0 if found.table is None else found.table.nbytes // found.rows
        vectors = sum(self.dims[name] * _VECTORS[column.vector].itemsize for name, column in self._vectors.items())
        return int(vectors + self.ids_dtype.itemsize + payload)

    def _key_before(self, table: Table, start: int) -> Any:
        """The key of the row before a position, None for the first one."""
        if start == 0:
            return None
        if self._last[0] != start:
            found = self._db.rows(
                compose(
                    "SELECT {key} FROM {table} ORDER BY {key} OFFSET {skip} LIMIT 1",
                    key=self._key.identifier,
                    table=table.identifier,
                    skip=sql.Literal(start - 1),
                )
            )
            if not found:
                raise self._changed()
            self._last = start, found[0][0] if self._key.kind in _INTEGERS else str(found[0][0])
        return self._last[1]

    def _keys_at(self, table: Table, positions: npt.NDArray[np.int64]) -> list[Any]:
        """The keys at some rising positions, from one walk over the index."""
        found = self._db.rows(
            compose(
                "SELECT {key}{text} FROM (SELECT {key}, row_number() OVER (ORDER BY {key}) - 1 AS n FROM {table}) k "
                "WHERE n = ANY({positions}::bigint[]) ORDER BY n",
                key=self._key.identifier,
                text=sql.SQL("" if self._key.kind in _INTEGERS else "::text"),
                table=table.identifier,
                positions=sql.Literal(positions.tolist()),
            )
        )
        return [key for (key,) in found]

    def _select(self, rest: sql.Composable, *, payload: bool, vectors: bool = True) -> Found:
        """Rows of the table: the key, the vectors, and the payload where asked for; see `_ids` and `_rows`."""
        import pyarrow as pa

        fixed: list[tuple[sql.Composable, Fixed]] = []
        others: dict[str, tuple[sql.Composable, pa.DataType]] = {}
        if self._key.kind in _INTEGERS:
            fixed.append((self._key.identifier, Fixed(_INTEGERS[self._key.kind])))
        else:
            others[self._key.name] = self._key.identifier, pa.string()
        if vectors:
            for name, column in self._vectors.items():
                fixed.append((column.identifier, Fixed(_VECTORS[column.vector], self.dims[name])))
        for name, kind in self._payload.items() if payload else ():
            others[name] = sql.Identifier(name), pa.string() if kind is None else kind
        return read_rows(self._db, rest, fixed, others, str(self._where))

    def _ids(self, found: Found) -> Array:
        if self._key.kind in _INTEGERS:
            return found.fixed[0]
        assert found.table is not None
        keys = found.table.column(self._key.name).to_numpy().astype(self.ids_dtype)
        return np.asarray(keys)

    def _rows(self, found: Found, count: int) -> Rows:
        if found.rows != count:
            raise self._changed()
        ids = self._ids(found)
        vectors = found.fixed[-len(self._vectors) :]
        names = [name for name in self._payload if found.table is not None and name in found.table.column_names]
        payload = found.table.select(names) if found.table is not None and names else None
        return Rows(vectors[0], vectors[1] if len(vectors) > 1 else None, ids, payload)

    def _changed(self) -> StoreError:
        return StoreError(
            f"{self._where} has fewer rows than it had when it was opened; freeze the table while a job reads it, and "
            f"start a new job"
        )


def _table_of(db: Database, place: Place) -> Table:
    """The table that a place names, by its oid where the place has one."""
    if "table" not in place.options:
        raise ConfigError(f"{place} names no table; add ?table=NAME")
    oid = place.options.get("oid")
    if oid is not None and not oid.isdecimal():
        raise ConfigError(f"{place}: oid is the number of a table, got {oid!r:.80}")
    table = find_table(db, named_table(db, place.options["table"]) if oid is None else int(oid))
    if table is None:
        raise StoreError(f"{place}: there is no such table; check its name, its schema and the database")
    return table
