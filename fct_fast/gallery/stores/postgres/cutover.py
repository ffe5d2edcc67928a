"""The twin becomes the live table, and back: each in one transaction, whose names are also the record of it.

Writers are held off while the tables are looked at; readers wait only for the renaming itself. Where others hold a
table for longer than LOCK_SECONDS, the step is given up, with nothing changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from psycopg import sql

from fct_fast.errors import StoreError
from fct_fast.gallery.stores.postgres.database import Database, compose
from fct_fast.gallery.stores.postgres.design import Design
from fct_fast.gallery.stores.postgres.exchange import exchange
from fct_fast.gallery.stores.postgres.obstacles import obstacle
from fct_fast.gallery.stores.postgres.publishing import planned_twins
from fct_fast.gallery.stores.postgres.staging import source_of, write_note
from fct_fast.gallery.stores.postgres.survey import identity_of
from fct_fast.gallery.stores.postgres.table import Table
from fct_fast.gallery.stores.postgres.twins import foreign_keys, indexes

__all__ = ["LOCK_SECONDS", "replace_source", "restore_source"]

LOCK_SECONDS = 3


def replace_source(
    db: Database, design: Design, table: Table, form: Mapping[str, Any], token: str, checked: Callable[[], str]
) -> None:
    """`table` takes the name of the source. checked: the state of `table`; raises where it is not what was verified.

    Raises StoreError, with nothing changed, where the source is not the one that the job read, or is in use.
    """
    name = f"{form['schema']}.{form['table']}"
    with db.writing():
        source = source_of(db, design)
        if (source.schema, source.name) != (form["schema"], form["table"]):
            raise StoreError(
                f"{name} is not the table that this job read, which is called {source.schema}.{source.name} now; give "
                f"that its name back first"
            )
        _lock(db, source, table, "SHARE")
        reason = obstacle(db, source, design)
        if reason is not None:
            raise StoreError(f"{name} cannot be replaced by renaming, because {reason}; remove that, and try again")
        if identity_of(db, source.oid, form["id"], name) != form["identity"]:
            raise StoreError(
                f"{name} was changed since the job read it, and the new table lacks the changes; freeze it and start a "
                f"new job with another sink"
            )
        state = checked()
        _require_twins(db, design, form, source, table, token)
        _lock(db, source, table, "ACCESS EXCLUSIVE")
        exchange(db, source, design.before, f"__before_{token}", table, f"__{token}")
        write_note(db, design, table, live=state)


def restore_source(db: Database, design: Design, table: Table, token: str) -> str | None:
    """The source takes its name back, and `table` the one that it was published under. Keeps all rows of both.

    Returns what was bound to `table` itself while it was live (see `obstacle`), None where nothing was.
    """
    with db.writing():
        source = source_of(db, design)
        _lock(db, table, source, "ACCESS EXCLUSIVE")
        bound = obstacle(db, table, design)
        exchange(db, table, design.table, f"__{token}", source, f"__before_{token}")
        write_note(db, design, table)
    return bound


def _lock(db: Database, first: Table, second: Table, mode: str) -> None:
    db.run(compose("SET LOCAL lock_timeout = {time}", time=sql.Literal(f"{LOCK_SECONDS}s")))
    db.run(
        compose(
            "LOCK TABLE {first}, {second} IN {mode} MODE",
            first=first.identifier,
            second=second.identifier,
            mode=sql.SQL(mode),
        )
    )


def _require_twins(
    db: Database, design: Design, form: Mapping[str, Any], source: Table, table: Table, token: str
) -> None:
    has = indexes(db, table) | foreign_keys(db, table)
    for twin in planned_twins(db, design, form, table.identifier, token):
        if twin.statement is not None and twin.name not in has:
            raise StoreError(
                f"{source.schema}.{source.name} has {twin.original}, which the new table lacks: it was added, or its "
                f"twin {twin.name} dropped, since the new table was published; drop it, or start a new job"
            )
