"""The new table beside its final place, and the table that knows which of its rows each shard has.

The rows of a shard are known by their keys, kept in the order in which they were written. So the new table has no
column that its users would see, and a shard can be read back, and replaced, before and after it is published.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg import sql

from fct_fast.errors import StoreError
from fct_fast.gallery.stores.postgres.database import Database, compose, trusted
from fct_fast.gallery.stores.postgres.design import Design
from fct_fast.gallery.stores.postgres.obstacles import generated_from
from fct_fast.gallery.stores.postgres.payload import POSTGRES_TYPE, kind_of
from fct_fast.gallery.stores.postgres.table import Column, Table, find_table, held_table, vector_types
from fct_fast.gallery.stores.postgres.twins import twins_of
from fct_fast.gallery.stores.protocol import Layout

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["checks_of", "create", "new_table", "read_note", "source_of", "write_note"]


def new_table(db: Database, design: Design) -> Table | None:
    """The table of this job, whatever it is called by now; None before `create`."""
    known = read_note(db, design)
    return None if known is None else find_table(db, known["table"])


def read_note(db: Database, design: Design) -> dict[str, Any] | None:
    """What the job keeps with its table of shards, None before `create`. table: oid of the new table; live: its state
    when it was made live, where it was."""
    known = db.rows(
        "SELECT obj_description(c.oid, 'pg_class') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relname = %s",
        [design.schema, design.shards],
    )
    if not known:
        return None
    try:
        note = json.loads(known[0][0])
        return {"table": int(note["table"]), "live": note.get("live")}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise StoreError(
            f"{db.name}: the comment of {design.schema}.{design.shards} no longer says which table is this job's; "
            f"restore it, or start a new job"
        ) from error


def write_note(db: Database, design: Design, table: Table, live: str | None = None) -> None:
    note = {"about": "fct_fast: the rows that each shard of a job has", "table": table.oid, "live": live}
    db.run(
        compose(
            "COMMENT ON TABLE {shards} IS {text}",
            shards=design.named(design.shards),
            text=sql.Literal(json.dumps(note)),
        )
    )


def source_of(db: Database, design: Design) -> Table:
    """The table that a twin is made like, held until the transaction at hand ends. Raises StoreError where it is
    gone."""
    assert design.source is not None
    return held_table(db, design.source, f"{db.name}: the table that this job reads")


def create(db: Database, design: Design, layout: Layout, token: str) -> None:
    """Make both tables, empty, in one transaction; what is left of them is replaced."""
    with db.writing():
        db.run(compose("DROP TABLE IF EXISTS {table}", table=design.named(design.shards)))
        db.run(compose("DROP TABLE IF EXISTS {table}", table=design.named(design.partial)))
        if design.source is None:
            _create_fresh(db, design, layout)
        else:
            _create_twin(db, design, token)
        table = find_table(db, (design.schema, design.partial))
        assert table is not None
        key = table.column(design.key)
        assert key is not None
        db.run(
            compose(
                "CREATE TABLE {shards} (shard integer PRIMARY KEY, keys {kind}[] STORAGE EXTERNAL NOT NULL)",
                shards=design.named(design.shards),
                kind=trusted(key.type),
            )
        )
        write_note(db, design, table)


def _create_fresh(db: Database, design: Design, layout: Layout) -> None:
    columns = [(design.key, _key_type(layout), True), (design.vector, _vector_type(db, design), True)]
    columns += [(field.name, _column_type(db, field), False) for field in design.payload]
    written = [
        compose(
            "{name} {kind} {rest}",
            name=sql.Identifier(name),
            kind=trusted(kind),
            rest=sql.SQL("NOT NULL" if needed else ""),
        )
        for name, kind, needed in columns
    ]
    db.run(
        compose(
            "CREATE TABLE {table} ({columns}, PRIMARY KEY ({key}))",
            table=design.named(design.partial),
            columns=sql.SQL(", ").join(written),
            key=sql.Identifier(design.key),
        )
    )


def _create_twin(db: Database, design: Design, token: str) -> None:
    source, target = source_of(db, design), design.named(design.partial)
    vector, key = source.column(design.vector), source.column(design.key)
    if vector is None or key is None:
        raise StoreError(f"{db.name}: the table that this job reads lost a column; restore it, or start a new job")
    options, space = db.one(
        "SELECT array_to_string(c.reloptions, ', '), s.spcname FROM pg_class c LEFT JOIN pg_tablespace s "
        "ON s.oid = c.reltablespace AND has_tablespace_privilege(s.oid, 'CREATE') WHERE c.oid = %s",
        [source.oid],
    )
    db.run(
        compose(
            "CREATE TABLE {table} (LIKE {source} INCLUDING ALL EXCLUDING INDEXES) {options} {space}",
            table=target,
            source=source.identifier,
            options=trusted(f"WITH ({options})" if options else ""),
            space=compose("TABLESPACE {name}", name=sql.Identifier(space)) if space else sql.SQL(""),
        )
    )
    for name in generated_from(db, source, vector.number):
        _alter(db, target, compose("DROP COLUMN {column} CASCADE", column=sql.Identifier(name)))
    for name in checks_of(db, source, vector):
        _alter(db, target, compose("DROP CONSTRAINT {check}", check=sql.Identifier(name)))
    kind = trusted(_vector_type(db, design))
    _alter(db, target, compose("ALTER COLUMN {column} DROP DEFAULT", column=vector.identifier))
    _alter(db, target, compose("ALTER COLUMN {column} TYPE {kind} USING NULL", column=vector.identifier, kind=kind))
    text = db.one("SELECT obj_description(%s, 'pg_class')", [source.oid])[0]
    db.run(compose("COMMENT ON TABLE {table} IS {text}", table=target, text=sql.Literal(text)))
    for twin in twins_of(db, source, key, vector, design, target, token):
        if twin.for_key and twin.statement is not None:
            db.run(twin.statement)


def _alter(db: Database, table: sql.Composable, change: sql.Composed) -> None:
    db.run(compose("ALTER TABLE {table} {change}", table=table, change=change))


def checks_of(db: Database, table: Table, column: Column) -> list[str]:
    """The CHECK constraints that look at a column."""
    found = db.rows(
        "SELECT conname FROM pg_constraint WHERE conrelid = %s AND contype = 'c' AND %s::int2 = ANY (conkey)",
        [table.oid, column.number],
    )
    return [name for (name,) in found]


def _vector_type(db: Database, design: Design) -> str:
    known = vector_types(db)
    if design.kind not in known:
        raise StoreError(f"{db.name}: this pgvector has no halfvec; update the extension to 0.7, or write float32")
    return str(db.one("SELECT format_type(%s, %s)", [known[design.kind], design.dim])[0])


def _key_type(layout: Layout) -> str:
    dtype = layout.ids_dtype or np.dtype("<i8")
    if dtype.kind in "iu":
        size = dtype.itemsize * (2 if dtype.kind == "u" else 1)
        return {1: "smallint", 2: "smallint", 4: "integer"}.get(size, "bigint")
    return "uuid" if layout.form.get("id_type") == "uuid" else 'text COLLATE "C"'


def _column_type(db: Database, field: pa.Field) -> str:
    """The type of a new column: what a PostgreSQL source says that it was there, if this database has that."""
    kind = kind_of(field.type)
    assert kind is not None
    named: str = (field.metadata or {}).get(POSTGRES_TYPE, b"").decode()
    if named and kind.column == "text" and db.one("SELECT to_regtype(%s) IS NOT NULL", [named])[0]:
        return named
    return kind.column
