"""The space fingerprint of a gallery, in the comment of its vector column, where it moves with the table and its dumps.

A comment that is there already stays; the fingerprint is a last line of its own.
"""

from __future__ import annotations

import json

from psycopg import sql

from fct_fast.errors import CorruptError, StoreError
from fct_fast.gallery.stores.postgres.database import Database, compose
from fct_fast.gallery.stores.postgres.table import Column, Table
from fct_fast.space import SpaceFingerprint, canonical_json

__all__ = ["read_stamp", "write_stamp"]

_MARK = "fct_fast space: "


def read_stamp(db: Database, table: Table, column: Column) -> SpaceFingerprint | None:
    """The fingerprint of a column, None where it has none. Raises CorruptError where it cannot be read as one."""
    for line in _comment(db, table, column).splitlines():
        if line.startswith(_MARK):
            try:
                return SpaceFingerprint.from_json(json.loads(line.removeprefix(_MARK)))
            except (ValueError, TypeError, RecursionError) as error:
                raise CorruptError(
                    f"the comment of {table.schema}.{table.name}.{column.name} holds no space fingerprint that can be "
                    f"read ({error}); correct it with COMMENT ON COLUMN"
                ) from error
    return None


def write_stamp(db: Database, table: Table, column: Column, space: SpaceFingerprint | None) -> None:
    """Put `space` in place of the fingerprint that a column has, None for none."""
    lines = [line for line in _comment(db, table, column).splitlines() if not line.startswith(_MARK)]
    if space is not None:
        lines.append(_MARK + canonical_json(space.to_json()).decode())
    db.run(
        compose(
            "COMMENT ON COLUMN {table}.{column} IS {text}",
            table=table.identifier,
            column=column.identifier,
            text=sql.Literal("\n".join(lines) or None),
        )
    )


def _comment(db: Database, table: Table, column: Column) -> str:
    found = db.rows("SELECT col_description(%s, %s)", [table.oid, column.number])
    if not found:
        raise StoreError(f"{db.name}: the column {column.name!r:.80} is gone")
    return found[0][0] or ""
