"""Reading a gallery from a PostgreSQL table: rows in the order of their key, each shard in one snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psycopg import sql

from fct_fast.errors import ConfigError, SpaceError, StoreError
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.postgres.database import Database, compose
from fct_fast.gallery.stores.postgres.keyset import INTEGERS, Keyset, ids_dtype
from fct_fast.gallery.stores.postgres.payload import POSTGRES_TYPE, arrow_type
from fct_fast.gallery.stores.postgres.reader import BATCH_BYTES, Found, Vectors, Wanted, joined, read_rows
from fct_fast.gallery.stores.postgres.stamp import read_stamp
from fct_fast.gallery.stores.postgres.survey import described, identity_of, survey
from fct_fast.gallery.stores.postgres.table import (
    Table,
    find_table,
    held_name,
    key_column,
    named_table,
    vector_column,
)
from fct_fast.gallery.stores.postgres.twins import vector_indexes
from fct_fast.gallery.stores.protocol import Array, Capabilities, Columns, Rows, Shard, spread
from fct_fast.space import SpaceFingerprint

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PostgresSource"]

_VECTORS: dict[str, np.dtype[Any]] = {"vector": np.dtype("<f4"), "halfvec": np.dtype("<f2")}
_LARGE = 50_000  # rows, from which on a sample is of pages
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
        self.places = self._places(columns)
        self.ids_dtype = ids_dtype(self._key, found.widest)
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
        self._seen = described(db, table, self._key, found.rows, found.versions)
        self._keyset = Keyset(db, self._key)
        self._keys: npt.NDArray[Any] | None = None
        self.row_bytes = self._measured_bytes()
        self._batch = max(1, BATCH_BYTES // self.row_bytes)

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
            "side": None if side is None or side.generated else side.name,
            "computed_key": self._key.generated,
            "id_type": self._key.type,
            "kind": self._vectors["old"].vector,
            "server": self._seen["server"],
            "database": self._seen["database"],
            "oid": self._table.oid,
            "schema": self._table.schema,
            "table": self._table.name,
            "columns": list(self._payload),
            "indexes": self._indexes,
            "identity": self._seen,
        }

    def identity(self) -> dict[str, Any]:
        self._seen = identity_of(self._db, self._table.oid, self._key.name, str(self._where))
        return dict(self._seen)

    def read(self, shard: Shard) -> Rows:
        with self._db.reading():
            table, parts = self._held(), []
            for start in range(shard.start, shard.stop, self._batch):
                count = min(self._batch, shard.stop - start)
                part = self._select(self._keyset.rows(table, start, count), payload=True)
                if part.rows != count:
                    raise self._changed()
                self._keyset.remember(start + count, self._ids(part)[-1].item())
                parts.append(part)
        return self._rows(joined(parts))

    def take(self, positions: npt.NDArray[np.int64]) -> Rows:
        wanted, inverse = np.unique(positions, return_inverse=True)
        with self._db.reading():
            table, parts = self._held(), []
            keys = self._keyset.at(table, wanted) if self._keys is None else self._keys[wanted].tolist()
            for start in range(0, max(1, len(keys)), self._batch):
                some = keys[start : start + self._batch]
                parts.append(self._select(self._keyset.rows_of(table, some), payload=False))
        found = joined(parts)
        if found.rows != len(wanted):
            raise self._changed()
        rows = self._rows(found)
        assert rows.ids is not None
        return Rows(rows.old[inverse], None if rows.side is None else rows.side[inverse], rows.ids[inverse])

    def sample(self, count: int) -> Rows:
        if self.rows >= max(_LARGE, 16 * count):  # some pages, rather than a walk over the whole index
            with self._db.reading():
                found = self._select(self._keyset.some_rows(self._held(), count / self.rows, 2 * count), payload=False)
            if found.rows >= count // 2:
                return self._rows(found)
        return self.take(spread(self.rows, count))

    def all_ids(self) -> Array:
        """Kept, so that a join by id finds rows at positions quickly; `held_bytes` counts them."""
        if self._keys is None:
            count = BATCH_BYTES // self.ids_dtype.itemsize
            with self._db.reading():
                table, parts = self._held(), []
                for start in range(0, self.rows, count):
                    part = self._select(self._keyset.rows(table, start, count), payload=False, vectors=False)
                    if part.rows:
                        self._keyset.remember(start + part.rows, self._ids(part)[-1].item())
                        parts.append(part)
            found = joined(parts)
            if found.rows != self.rows:
                raise self._changed()
            self._keys = self._ids(found)
        return self._keys

    def overlaps(self, place: Place) -> bool:
        if not place.scheme.startswith("postgres") or "table" not in place.options:
            return False
        other = Database(place)
        try:
            with other.reading():
                if other.identity() != (self._seen["server"], self._seen["database"]):
                    return False
                table = find_table(other, named_table(other, place.options["table"]))
                return table is not None and table.oid == self._table.oid
        finally:
            other.close()

    def close(self) -> None:
        self._db.close()

    def _held(self) -> sql.Identifier:
        return held_name(self._db, self._table.oid, str(self._where))

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

    def _select(self, rest: sql.Composable, *, payload: bool, vectors: bool = True) -> Found:
        """Rows of the table: the key, the vectors, and the payload where asked for; see `_ids` and `_rows`."""
        import pyarrow as pa

        key, number = self._key.identifier, self._key.kind in INTEGERS
        others: dict[str, tuple[sql.Composable, pa.DataType]] = {} if number else {self._key.name: (key, pa.string())}
        if payload:
            for name, kind in self._payload.items():
                others[name] = sql.Identifier(name), pa.string() if kind is None else kind
        wanted = Wanted(
            [key] if number else [],
            [
                Vectors(column.identifier, column.send, _VECTORS[column.vector], self.dims[name])
                for name, column in self._vectors.items()
                if vectors
            ],
            others,
        )
        return read_rows(self._db, rest, wanted, str(self._where))

    def _ids(self, found: Found) -> Array:
        if self._key.kind in INTEGERS:
            return found.integers[0].astype(self.ids_dtype)
        assert found.table is not None
        return np.asarray(found.table.column(self._key.name).to_numpy().astype(self.ids_dtype))

    def _rows(self, found: Found) -> Rows:
        names = [name for name in self._payload if found.table is not None and name in found.table.column_names]
        payload = found.table.select(names) if found.table is not None and names else None
        return Rows(found.vectors[0], found.vectors[1] if len(found.vectors) > 1 else None, self._ids(found), payload)

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
