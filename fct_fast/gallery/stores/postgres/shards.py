"""The rows of one shard, into the new table and back.

A shard goes by binary COPY into a temporary table and from there, cast to the types of the columns, into the new one:
in one transaction with the note of its keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from psycopg import sql

from fct_fast.errors import StoreError
from fct_fast.gallery.stores.postgres.database import Database, compose, trusted
from fct_fast.gallery.stores.postgres.design import Design
from fct_fast.gallery.stores.postgres.encoding import Content, incoming_table
from fct_fast.gallery.stores.postgres.reader import read_rows
from fct_fast.gallery.stores.postgres.staging import source_of
from fct_fast.gallery.stores.postgres.table import Table
from fct_fast.gallery.stores.postgres.wire import Fixed
from fct_fast.gallery.stores.protocol import Layout, Loaded, Shard

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_shard", "write_shard"]

_INT64 = np.dtype("<i8")


def write_shard(db: Database, design: Design, table: Table, shard: Shard, content: Content, where: str) -> bytes:
    """Put rows in the place of what the shard was before; returns their digest."""
    sha = hashlib.sha256()

    def hashed() -> Iterator[memoryview | bytes]:
        for chunk in content.encoded(where):
            sha.update(chunk)
            yield chunk

    named: dict[str, sql.Composable] = {
        "table": table.identifier,
        "shards": design.named(design.shards),
        "key": sql.Identifier(design.key),
        "shard": sql.Literal(shard.index),
        "kind": _type_of(table, design.key),
    }
    with db.writing():
        # Waits for a process that was killed while the server worked for it.
        db.run(compose("LOCK TABLE {shards} IN EXCLUSIVE MODE", **named))
        db.run(incoming_table(db, design, text_keys=content.keys.dtype.kind != "i"))
        db.copy_in(compose("COPY pg_temp.incoming FROM STDIN (FORMAT BINARY)"), hashed())
        if db.run(compose("SELECT FROM {shards} WHERE shard = {shard}", **named)):
            db.run(
                compose(
                    "DELETE FROM {table} t USING (SELECT unnest(keys) AS k FROM {shards} WHERE shard = {shard}) old "
                    "WHERE t.{key} = old.k",
                    **named,
                )
            )
            db.run(compose("DELETE FROM {shards} WHERE shard = {shard}", **named))
        if design.side is not None:
            # By the index, row for row: the server would rather read and hash the whole source for each shard.
            db.run("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_memoize = off")
        if db.run(_insertion(db, design, table)) != shard.rows:
            raise StoreError(f"{where}: the source lost rows of this shard; freeze it while a job runs, and start anew")
        db.run(
            compose(
                "INSERT INTO {shards} SELECT {shard}, array_agg(k::{kind} ORDER BY ctid) FROM pg_temp.incoming",
                **named,
            )
        )
    return sha.digest()


def read_shard(db: Database, design: Design, layout: Layout, table: Table, shard: Shard, where: str) -> Loaded:
    """Rows as they are stored, in the order in which they were written. Raises StoreError where some are missing."""
    import pyarrow as pa

    rest = compose(
        "FROM {shards} s CROSS JOIN LATERAL unnest(s.keys) WITH ORDINALITY AS k(key, n) "
        "JOIN {table} t ON t.{key} = k.key WHERE s.shard = {shard}",
        shards=design.named(design.shards),
        table=table.identifier,
        key=sql.Identifier(design.key),
        shard=sql.Literal(shard.index),
    )
    number, key = sql.SQL("k.n"), sql.SQL("k.key")
    fixed = [(number, Fixed(_INT64)), (_column(design.vector), Fixed(layout.dtype, layout.dim))]
    others: dict[str, tuple[sql.Composable, pa.DataType]] = {
        f"p{i}": (_column(field.name), field.type) for i, field in enumerate(design.payload)
    }
    if layout.ids_dtype is None or layout.ids_dtype.kind in "iu":
        fixed.append((compose("{key}::bigint", key=key), Fixed(_INT64)))
    else:
        others["key"] = key, pa.string()
    if others:
        others["n"] = number, pa.int64()
    found = read_rows(db, rest, fixed, others, where)
    if found.rows != shard.rows:
        raise StoreError(f"{where} is not complete: {found.rows} of its {shard.rows} rows are there")
    order = np.argsort(found.fixed[0])  # the server joins in any order
    new, payload = found.fixed[1][order], None
    keys = found.fixed[2][order] if len(fixed) > 2 else None
    if found.table is not None:
        ordered = found.table.take(np.argsort(found.table.column("n").to_numpy()))
        if keys is None:
            keys = ordered.column("key").to_numpy().astype(layout.ids_dtype)
        if len(design.payload):
            names = [f"p{i}" for i in range(len(design.payload))]
            payload = ordered.select(names).rename_columns(list(design.payload.names))
    assert keys is not None
    ids = None if layout.ids_dtype is None else keys.astype(layout.ids_dtype)
    return Loaded(new, ids, payload, Content.of(shard, new, ids, payload, where).digest(where))


def _insertion(db: Database, design: Design, table: Table) -> sql.Composed:
    """From the temporary table, with the side-information of a twin from its source."""
    key = compose("i.k::{kind}", kind=_type_of(table, design.key))
    columns = [design.key, design.vector, *design.payload.names]
    values = [key, compose("i.v::{kind}", kind=_type_of(table, design.vector))]
    values += [
        compose("i.{column}::{kind}", column=sql.Identifier(f"p{i}"), kind=_type_of(table, field.name))
        for i, field in enumerate(design.payload)
    ]
    joined = sql.Composed([])
    if design.side is not None:
        columns.append(design.side)
        values.append(compose("s.{column}", column=sql.Identifier(design.side)))
        joined = compose(
            "JOIN {source} s ON s.{key} = {value}",
            source=source_of(db, design).identifier,
            key=sql.Identifier(design.key),
            value=key,
        )
    return compose(
        "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {values} FROM pg_temp.incoming i {joined}",
        table=table.identifier,
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        values=sql.SQL(", ").join(values),
        joined=joined,
    )


def _column(name: str) -> sql.Composed:
    return compose("t.{column}", column=sql.Identifier(name))


def _type_of(table: Table, name: str) -> sql.SQL:
    column = table.column(name)
    if column is None:
        raise StoreError(f"the table {table.schema}.{table.name} lost its column {name!r:.80}; restore it")
    return trusted(column.type)
