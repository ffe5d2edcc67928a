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
from fct_fast.gallery.stores.postgres.reader import BATCH_BYTES, Found, Vectors, Wanted, joined, read_rows
from fct_fast.gallery.stores.postgres.staging import source_of
from fct_fast.gallery.stores.postgres.table import Table
from fct_fast.gallery.stores.protocol import Layout, Loaded, Shard

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_shard", "write_shard"]

PAYLOAD_BYTES = 64  # of a cell, for the size of an answer


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
    wanted = _wanted(design, layout, table)
    batch = max(1, BATCH_BYTES // (layout.row_bytes + PAYLOAD_BYTES * len(design.payload)))
    parts = []
    for start in range(0, shard.rows, batch):
        rest = compose(
            "FROM {shards} s CROSS JOIN LATERAL unnest(s.keys[{first}:{last}]) WITH ORDINALITY AS k(key, n) "
            "JOIN {table} t ON t.{key} = k.key WHERE s.shard = {shard}",
            shards=design.named(design.shards),
            first=sql.Literal(start + 1),
            last=sql.Literal(start + batch),
            table=table.identifier,
            key=sql.Identifier(design.key),
            shard=sql.Literal(shard.index),
        )
        parts.append(_in_order(read_rows(db, rest, wanted, where)))
    found = joined(parts)
    if found.rows != shard.rows:
        raise StoreError(f"{where} is not complete: {found.rows} of its {shard.rows} rows are there")
    ids = payload = None
    if layout.ids_dtype is not None and layout.ids_dtype.kind in "iu":
        ids = found.integers[1].astype(layout.ids_dtype)
    elif layout.ids_dtype is not None:
        assert found.table is not None
        ids = found.table.column("key").to_numpy().astype(layout.ids_dtype)
    if len(design.payload):
        assert found.table is not None
        names = [f"p{i}" for i in range(len(design.payload))]
        payload = found.table.select(names).rename_columns(list(design.payload.names))
    new = found.vectors[0]
    return Loaded(new, ids, payload, Content.of(shard, new, ids, payload, where).digest(where))


def _wanted(design: Design, layout: Layout, table: Table) -> Wanted:
    """The number of each row, its key, vector and payload."""
    import pyarrow as pa

    vector = table.column(design.vector)
    if vector is None:
        raise StoreError(f"the table {table.schema}.{table.name} lost its column {design.vector!r:.80}; restore it")
    integers: list[sql.Composable] = [sql.SQL("k.n")]
    others: dict[str, tuple[sql.Composable, pa.DataType]] = {
        f"p{i}": (_column(field.name), field.type) for i, field in enumerate(design.payload)
    }
    if layout.ids_dtype is None or layout.ids_dtype.kind in "iu":
        integers.append(sql.SQL("k.key"))
    else:
        others["key"] = sql.SQL("k.key"), pa.string()
    return Wanted(integers, [Vectors(_column(design.vector), vector.send, layout.dtype, layout.dim)], others)


def _in_order(found: Found) -> Found:
    """The server joins in any order; as the keys were noted."""
    order = np.argsort(found.integers[0])
    if (order[1:] > order[:-1]).all():
        return found
    return Found(
        found.rows,
        [column[order] for column in found.integers],
        [column[order] for column in found.vectors],
        None if found.table is None else found.table.take(order),
    )


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
