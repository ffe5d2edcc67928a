"""From the staged table to the published one: indexes, statistics, owner, privileges, the stamp of its space, its name.

Each index is built and committed on its own, so that a crash costs the one in progress; the rest is one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import sql

from fct_fast.errors import StoreError
from fct_fast.gallery.stores.postgres.database import Database, compose
from fct_fast.gallery.stores.postgres.design import Design
from fct_fast.gallery.stores.postgres.exchange import copy_counters, copy_owner, copy_privileges, copy_replica_identity
from fct_fast.gallery.stores.postgres.staging import source_of
from fct_fast.gallery.stores.postgres.stamp import write_stamp
from fct_fast.gallery.stores.postgres.table import Table, find_table
from fct_fast.gallery.stores.postgres.twins import Twin, foreign_keys, indexes, loose_twins, twins_of
from fct_fast.gallery.stores.protocol import Layout
from fct_fast.space import SpaceFingerprint

__all__ = ["planned_twins", "publish", "require_whole"]


def require_whole(db: Database, design: Design, layout: Layout, table: Table, place: str) -> None:
    """Raise StoreError unless all shards, and all rows, are there."""
    shards, rows = db.one(
        compose(
            "SELECT count(*), coalesce(sum(cardinality(keys)), 0)::bigint FROM {shards}",
            shards=design.named(design.shards),
        )
    )
    (count,) = db.one(compose("SELECT count(*) FROM {table}", table=table.identifier))
    if (shards, rows, count) != (layout.shards, layout.rows, layout.rows):
        raise StoreError(
            f"{place} has {shards} of {layout.shards} shards and {count} of {layout.rows} rows, so it is not "
            f"published; run the job again with repair=True (--repair)"
        )


def planned_twins(
    db: Database, design: Design, form: Mapping[str, Any], target: sql.Composable, token: str
) -> list[Twin]:
    """The indexes and foreign keys of the source, as they are to be on `target`: of a twin all, elsewhere the plain
    ones of the vectors."""
    if design.source is None:
        if form.get("store") != "postgres":
            return []
        (space,) = db.one(
            "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
            "WHERE e.extname = 'vector'"
        )
        return loose_twins(form["indexes"], form["kind"], space, design, target)
    with db.reading():
        source = source_of(db, design)
        key, vector = source.column(design.key), source.column(str(form["vector"]))
        if key is None or vector is None:
            raise StoreError(f"{source.schema}.{source.name} lost a column since the job was planned; restore it")
        return twins_of(db, source, key, vector, design, target, token)


def publish(
    db: Database, design: Design, table: Table, form: Mapping[str, Any], token: str, space: SpaceFingerprint | None
) -> None:
    """Finish `table` and give it its final name. Raises StoreError where something else has that."""
    _require_free(db, design)
    built = indexes(db, table) | foreign_keys(db, table)
    for twin in planned_twins(db, design, form, table.identifier, token):
        if twin.statement is not None and twin.name not in built:
            with db.writing():
                db.run(twin.statement)
    with db.writing():  # so that the first question is planned well; statistics of vectors serve nothing
        plain = [column.identifier for column in table.columns if not column.vector]
        db.run(compose("ANALYZE {table} ({columns})", table=table.identifier, columns=sql.SQL(", ").join(plain)))
    with db.writing():
        _require_free(db, design)
        if design.source is not None:
            source = source_of(db, design)
            copy_counters(db, source, table)
            copy_owner(db, source, table)
            copy_privileges(db, source, table)
            copy_replica_identity(db, source, table, f"__{token}")
        column = table.column(design.vector)
        assert column is not None
        write_stamp(db, table, column, space)
        db.run(
            compose("ALTER TABLE {table} RENAME TO {name}", table=table.identifier, name=sql.Identifier(design.table))
        )


def _require_free(db: Database, design: Design) -> None:
    if find_table(db, (design.schema, design.table)) is not None:
        raise StoreError(
            f"{db.name}: {design.schema}.{design.table} appeared while the job ran; rename it and run the same command "
            f"again"
        )
