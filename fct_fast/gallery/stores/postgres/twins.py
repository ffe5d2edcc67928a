"""The indexes and constraints of a source, anew on its twin: those of vectors in the new dimension and type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from fct_fast.gallery.stores.postgres.database import Database, compose, trusted
from fct_fast.gallery.stores.postgres.design import Design, clipped
from fct_fast.gallery.stores.postgres.table import Column, Table

__all__ = [
    "Twin",
    "foreign_keys",
    "index_seconds",
    "indexes",
    "loose_twins",
    "twins_of",
    "vector_indexes",
]

_INDEXES = """
SELECT c.relname, con.contype::text, pg_get_constraintdef(con.oid), i.indisunique, am.amname,
       substr(d.def, strpos(d.def, ' USING ' || quote_ident(am.amname) || ' (')),
       %(vector)s::int2 = ANY (i.indkey::int2[]),
       EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = i.indexrelid
               AND refobjid = i.indrelid AND refobjsubid = %(vector)s),
       op.opcname, quote_ident(n.nspname),
       coalesce((SELECT string_agg(quote_ident(option_name) || '=' || quote_literal(option_value), ', ')
                 FROM pg_options_to_table(c.reloptions)), ''),
       coalesce(' WHERE ' || pg_get_expr(i.indpred, i.indrelid), ''),
       i.indnkeyatts = 1 AND i.indkey[0] = %(key)s AND i.indisunique AND i.indpred IS NULL
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am am ON am.oid = c.relam
JOIN pg_opclass op ON op.oid = i.indclass[0]
JOIN pg_namespace n ON n.oid = op.opcnamespace
CROSS JOIN LATERAL pg_get_indexdef(i.indexrelid) AS d(def)
LEFT JOIN pg_constraint con
    ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid AND con.contype IN ('p', 'u', 'x')
WHERE i.indrelid = %(table)s AND i.indisvalid
ORDER BY c.relname
"""
_KEYS = """
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s AND contype = 'f' ORDER BY conname
"""
_TYPED = re.compile(r"\b(vector|halfvec|bit)\((\d+)\)")
_LIMITS = {"vector": 2000, "halfvec": 4000, "bit": 64000}  # values that hnsw and ivfflat take


@dataclass(frozen=True)
class Twin:
    """An index or constraint of the source, and what makes its twin. name: of the twin; method: of an index, "" of a
    foreign key; for_key: it is an index that keeps the ids unique. statement: None where it cannot be built, and
    `reason` says why."""

    original: str
    name: str
    method: str
    options: str
    for_key: bool
    statement: sql.Composed | None
    reason: str = ""


def twins_of(
    db: Database, source: Table, key: Column, vector: Column, design: Design, target: sql.Composable, token: str
) -> list[Twin]:
    """All indexes, then all foreign keys, of `source`, as they are to be on `target`."""
    found = []
    for row in db.rows(_INDEXES, {"table": source.oid, "vector": vector.number, "key": key.number}):
        name, constraint, definition, unique, method, tail, direct, touches, opclass, space, options, where, keys = row
        twin, reason = clipped(name, f"__{token}"), ""
        if direct:
            opclass = opclass.replace(vector.vector, design.kind)
            tail = f"{_on_vectors(method, vector.name, f'{space}.{opclass}', options)}{where}"
        elif touches:
            tail = _TYPED.sub(lambda found: _resized(found, vector.dim, design.dim), tail)
        if touches:
            reason = _too_wide(method, opclass, design.dim)
        if constraint is not None:
            statement = _constraint(target, twin, definition)
        else:
            statement = _index(target, twin, tail, unique=unique)
        found.append(Twin(name, twin, method, options, keys, None if reason else statement, reason))
    for name, definition in db.rows(_KEYS, [source.oid]):
        twin = clipped(name, f"__{token}")
        found.append(Twin(name, twin, "", "", False, _constraint(target, twin, definition)))
    return found


def vector_indexes(db: Database, table: Table, vector: Column) -> list[dict[str, str]]:
    """The plain indexes on a column of vectors, as JSON values for a sink in another database."""
    found = db.rows(_INDEXES, {"table": table.oid, "vector": vector.number, "key": 0})
    return [
        {"method": method, "opclass": opclass, "options": options}
        for (_, _, _, _, method, _, direct, _, opclass, _, options, where, _) in found
        if direct and not where and method in ("hnsw", "ivfflat")
    ]


def loose_twins(
    described: Sequence[dict[str, str]], old_kind: str, space: str, design: Design, target: sql.Composable
) -> list[Twin]:
    """What `vector_indexes` found, as indexes of a table that is no twin; space: the schema of pgvector."""
    found = []
    for number, index in enumerate(described):
        name = clipped(f"{design.table}_{design.vector}", f"_idx{number or ''}")
        opclass = index["opclass"].replace(old_kind, design.kind)
        tail = _on_vectors(index["method"], design.vector, f"{space}.{opclass}", index["options"])
        reason = _too_wide(index["method"], opclass, design.dim)
        statement = None if reason else _index(target, name, tail)
        found.append(Twin(name, name, index["method"], index["options"], False, statement, reason))
    return found


def indexes(db: Database, table: Table) -> set[str]:
    """The names of the indexes of a table, those of its constraints included."""
    found = db.rows(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = %s AND indisvalid",
        [table.oid],
    )
    return {name for (name,) in found}


def foreign_keys(db: Database, table: Table) -> set[str]:
    """The names of the foreign keys of a table."""
    return {name for name, _ in db.rows(_KEYS, [table.oid])}


def index_seconds(rows: int, dim: int, twins: Sequence[Twin]) -> float:
    """An estimate of the time to build the indexes of vectors."""
    seconds = 0.0
    for twin in twins:
        if twin.statement is not None and twin.method == "hnsw":
            seconds += rows * _option(twin, "ef_construction", 64) * (dim + 200) * 2e-8
        elif twin.statement is not None and twin.method == "ivfflat":
            seconds += 0.3 + rows * _option(twin, "lists", 100) * dim * 1.5e-9
    return seconds


def _option(twin: Twin, name: str, default: int) -> int:
    found = re.search(rf"{name}='(\d+)'", twin.options)
    return int(found[1]) if found else default


def _too_wide(method: str, opclass: str, dim: int) -> str:
    """A reason when an index cannot take rows of `dim` values, "" when it can."""
    kind = opclass.partition("_")[0]
    if method in ("hnsw", "ivfflat") and dim > _LIMITS.get(kind, dim):
        return f"{method} takes at most {_LIMITS[kind]} values of {kind}, and the new rows have {dim}"
    return ""


def _on_vectors(method: str, column: str, opclass: str, options: str) -> str:
    name = '"' + column.replace('"', '""') + '"'
    return f" USING {method} ({name} {opclass}){f' WITH ({options})' if options else ''}"


def _index(target: sql.Composable, name: str, tail: str, *, unique: bool = False) -> sql.Composed:
    return compose(
        "CREATE {unique} INDEX {name} ON {table} {tail}",
        unique=sql.SQL("UNIQUE" if unique else ""),
        name=sql.Identifier(name),
        table=target,
        tail=trusted(tail),
    )


def _constraint(target: sql.Composable, name: str, definition: str) -> sql.Composed:
    return compose(
        "ALTER TABLE {table} ADD CONSTRAINT {name} {definition}",
        table=target,
        name=sql.Identifier(name),
        definition=trusted(definition),
    )


def _resized(found: re.Match[str], old: int, new: int) -> str:
    return f"{found[1]}({new})" if int(found[2]) == old else found[0]
