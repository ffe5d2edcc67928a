"""What the catalogs say of a table: its columns, which of them hold vectors, and which names its rows."""

from __future__ import annotations

import re
from dataclasses import dataclass

from psycopg import sql

from fct_fast.errors import ConfigError, DtypeError, StoreError
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.postgres.database import Database, compose

__all__ = [
    "KEY_TYPES",
    "Column",
    "Table",
    "find_table",
    "held_name",
    "held_table",
    "key_column",
    "named_table",
    "vector_column",
    "vector_types",
]

KEY_TYPES = ("int2", "int4", "int8", "uuid", "text", "varchar")
_NAME = r'("(?:[^"]|"")+"|[^\s".]+)'
_NAMES = re.compile(rf"{_NAME}(?:\.{_NAME})?")
_KEY_WORDS = "smallint, integer, bigint, uuid or text"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    number: its attnum. kind: the name of its type in pg_type; type: the type as SQL; send: the
    function that gives its binary form. vector: "vector" or "halfvec"
    where it is one of pgvector's, else ""; dim: of a vector, 0 where the column does not fix it. collation: with its
    version, which changes when a library sorts anew; "" where values have none.
    """

    name: str
    number: int
    kind: str
    type: str
    send: str
    not_null: bool
    generated: bool
    vector: str
    dim: int
    collation: str

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.name)


@dataclass(frozen=True)
class Table:
    """A table as the catalogs have it. kind: "r" for an ordinary one, "p" for a partitioned one, and so on."""

    oid: int
    schema: str
    name: str
    kind: str
    columns: tuple[Column, ...]

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


def named_table(db: Database, text: str) -> tuple[str, str]:
    """Schema and name of the table that `?table=` names, whether it exists or not.

    `items` or `public.items`, folded to lower case unless quoted, as in SQL. Raises ConfigError for what is no name.
    """
    found = _NAMES.fullmatch(text)
    if not found:
        raise ConfigError(f"{text!r:.80} names no table; write ?table=NAME or ?table=SCHEMA.NAME in {db.name}")
    parts = [_unquoted(part) for part in found.groups() if part is not None]
    if len(parts) == 2:
        return parts[0], parts[1]
    schema = db.one(
        "SELECT coalesce((SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = to_regclass(quote_ident(%s))), current_schema())",
        [parts[0]],
    )[0]
    if schema is None:
        raise StoreError(f"{db.name}: the search path of this user names no schema; write ?table=SCHEMA.NAME")
    return schema, parts[0]


def find_table(db: Database, where: tuple[str, str] | int) -> Table | None:
    """The relation with a schema and name, or with an oid; None where there is none."""
    query = (
        "SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE "
    )
    if isinstance(where, int):
        found = db.rows(query + "c.oid = %s", [where])
    else:
        found = db.rows(query + "n.nspname = %s AND c.relname = %s", where)
    if not found:
        return None
    columns = db.rows(
        """
        SELECT a.attname, a.attnum, t.typname, format_type(a.atttypid, a.atttypmod), t.typsend::regproc::text,
               a.attnotnull, a.attgenerated <> '',
               CASE WHEN t.typname IN ('vector', 'halfvec') AND e.oid IS NOT NULL THEN t.typname::text ELSE '' END,
               greatest(a.atttypmod, 0),
               coalesce(quote_ident(l.collname) || ' ' || coalesce(pg_collation_actual_version(l.oid), ''), '')
        FROM pg_attribute a
        JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
        LEFT JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'vector'
        LEFT JOIN pg_collation l ON l.oid = a.attcollation
        WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum
        """,
        [found[0][0]],
    )
    oid, schema, name, kind = found[0]
    return Table(oid, schema, name, kind, tuple(Column(*column) for column in columns))


def held_name(db: Database, oid: int, where: str) -> sql.Identifier:
    """The name that a table has now and keeps until the transaction at hand ends. Raises StoreError where it is
    gone."""
    for _ in range(3):
        found = db.rows(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = %s",
            [oid],
        )
        if not found:
            break
        name = sql.Identifier(*found[0])
        db.run(compose("LOCK TABLE {table} IN ACCESS SHARE MODE", table=name))
        text = sql.Literal(name.as_string(None))
        if db.one(compose("SELECT to_regclass({name})::oid::bigint", name=text))[0] == oid:
            return name  # else it traded names with another one, a moment ago
    raise StoreError(f"{where} was dropped, or renamed at this very moment; restore it, or run the same command again")


def held_table(db: Database, oid: int, where: str) -> Table:
    """As `held_name`, the whole table."""
    held_name(db, oid, where)
    table = find_table(db, oid)
    assert table is not None
    return table


def vector_column(table: Table, place: Place) -> Column:
    """The column of vectors that a place names, or the only one. Raises ConfigError, DtypeError."""
    vectors = [column for column in table.columns if column.vector]
    if not place.column:
        if len(vectors) == 1:
            return vectors[0]
        names = ", ".join(column.name for column in vectors) or "none"
        raise ConfigError(f"{place} names no column of vectors, and the table has several or none ({names}); add #NAME")
    column = table.column(place.column)
    if column is None:
        names = ", ".join(column.name for column in table.columns)
        raise ConfigError(f"{place}: there is no column {place.column!r:.80}; the table has {names}")
    if not column.vector:
        raise DtypeError(
            f"{place} is of the type {column.type}; vectors are read from pgvector's types vector and halfvec, to "
            f"which ALTER TABLE ... ALTER COLUMN ... TYPE vector(DIM) turns arrays"
        )
    return column


def key_column(db: Database, table: Table, place: Place, name: str) -> Column:
    """The column that names the rows: `name`, or the primary key where that is "".

    Raises ConfigError or StoreError unless it is of a type that orders rows, NOT NULL, and unique by an index.
    """
    unique = db.rows(
        """
        SELECT a.attname, i.indisprimary, i.indnkeyatts
        FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
        """,
        [table.oid],
    )
    if not name:
        primary = [(column, width) for column, is_primary, width in unique if is_primary]
        if not primary:
            raise ConfigError(f"{place} has no primary key; name a column of unique ids: ids={'#NAME'!r}")
        if primary[0][1] > 1:
            raise ConfigError(
                f"{place} has a primary key of {primary[0][1]} columns; name one column of unique ids: ids={'#NAME'!r}"
            )
        name = primary[0][0]
    column = table.column(name)
    if column is None:
        raise ConfigError(f"{place}: there is no column {name!r:.80} to take ids from")
    if column.kind not in KEY_TYPES:
        raise DtypeError(f"{place}: ids are read from a column of {_KEY_WORDS}, but {name!r:.80} is of {column.type}")
    if not column.not_null:
        raise StoreError(f"{place}: the column of ids {name!r:.80} may be NULL; declare it NOT NULL, or name another")
    if not any(found == name and width == 1 for found, _, width in unique):
        raise StoreError(
            f"{place}: the column of ids {name!r:.80} has no unique index, so two rows could be mixed up; create one, "
            f"or name another column"
        )
    return column


def vector_types(db: Database) -> dict[str, int]:
    """The oids of pgvector's types by name. Raises StoreError where the database lacks the extension."""
    found = db.rows(
        "SELECT t.typname, t.oid::bigint FROM pg_type t "
        "JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e' "
        "JOIN pg_extension e ON e.oid = d.refobjid WHERE e.extname = 'vector' AND t.typname IN ('vector', 'halfvec')"
    )
    if not found:
        raise StoreError(f"{db.name}: the database has no pgvector; run CREATE EXTENSION vector in it")
    return dict(found)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
