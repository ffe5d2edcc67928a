"""Two tables trade names, with their indexes, constraints, sequences and privileges, within one transaction."""

from __future__ import annotations

from psycopg import sql

from fct_fast.errors import StoreError
from fct_fast.gallery.stores.postgres.database import Database, compose
from fct_fast.gallery.stores.postgres.design import clipped
from fct_fast.gallery.stores.postgres.table import Table, find_table
from fct_fast.gallery.stores.postgres.twins import foreign_keys, indexes

__all__ = ["copy_counters", "copy_owner", "copy_privileges", "copy_replica_identity", "exchange"]


def exchange(db: Database, live: Table, aside: str, suffix: str, standby: Table, waiting: str) -> None:
    """`standby` takes the name of `live`, which is called `aside` from then on.

    The same goes for each index, constraint and sequence of `live` that `standby` has under the same name with the
    suffix `waiting`: the one of `live` gets `suffix`. Both tables must be locked.
    """
    copy_owner(db, live, standby)
    copy_privileges(db, live, standby)
    _trade_sequences(db, live, suffix, standby)
    for kind, named in (("INDEX", indexes), ("CONSTRAINT", foreign_keys)):
        has = named(db, standby)
        for name in sorted(named(db, live)):
            if clipped(name, waiting) in has:
                _rename(db, live, kind, name, clipped(name, suffix))
                _rename(db, standby, kind, clipped(name, waiting), name)
    if find_table(db, (live.schema, aside)) is not None:
        raise StoreError(f"{db.name}: the name {live.schema}.{aside} is taken; rename what has it, and try again")
    _rename(db, live, "TABLE", live.name, aside)
    _rename(db, standby, "TABLE", standby.name, live.name)


def copy_owner(db: Database, source: Table, target: Table) -> None:
    """Give `target` the owner of `source`, where this user may speak for that one."""
    owner, other, may = db.one(
        "SELECT pg_get_userbyid(s.relowner), pg_get_userbyid(t.relowner), pg_has_role(s.relowner, %s) "
        "FROM pg_class s, pg_class t WHERE s.oid = %s AND t.oid = %s",
        ["SET" if db.version >= 160000 else "MEMBER", source.oid, target.oid],
    )
    if owner != other and may:
        db.run(compose("ALTER TABLE {table} OWNER TO {role}", table=target.identifier, role=sql.Identifier(owner)))


def copy_replica_identity(db: Database, source: Table, target: Table, suffix: str) -> None:
    """What names a row of `target` to a replica: the same as in `source`, or the twin, with `suffix`, of its index."""
    found = db.one(
        "SELECT c.relreplident::text, (SELECT n.relname FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid "
        "WHERE i.indrelid = c.oid AND i.indisreplident) FROM pg_class c WHERE c.oid = %s",
        [source.oid],
    )
    kinds: dict[str, sql.Composable] = {"f": sql.SQL("FULL"), "n": sql.SQL("NOTHING")}
    if found[0] == "i":
        kinds["i"] = compose("USING INDEX {index}", index=sql.Identifier(clipped(found[1], suffix)))
    if found[0] in kinds:
        db.run(compose("ALTER TABLE {table} REPLICA IDENTITY {kind}", table=target.identifier, kind=kinds[found[0]]))


def copy_privileges(db: Database, source: Table, target: Table) -> None:
    """Give `target` the privileges that `source` has, on the table and on its columns, and no others."""
    for (grantee,) in db.rows(f"SELECT DISTINCT grantee FROM ({_GRANTS}) g", {"table": target.oid}):
        db.run(compose("REVOKE ALL ON {table} FROM {role}", table=target.identifier, role=_role(grantee)))
    for grantee, privilege, column, grantable in db.rows(_GRANTS, {"table": source.oid}):
        if column is not None and target.column(column) is None:
            continue
        db.run(
            compose(
                "GRANT {privilege} {columns} ON {table} TO {role} {option}",
                privilege=sql.SQL(privilege),
                columns=sql.SQL("") if column is None else compose("({column})", column=sql.Identifier(column)),
                table=target.identifier,
                role=_role(grantee),
                option=sql.SQL("WITH GRANT OPTION" if grantable else ""),
            )
        )


_GRANTS = """
SELECT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END AS grantee,
       a.privilege_type, NULL::name, a.is_grantable
FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a WHERE c.oid = %(table)s AND a.grantee <> c.relowner
UNION ALL
SELECT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END,
       a.privilege_type, t.attname, a.is_grantable
FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid AND NOT t.attisdropped
CROSS JOIN LATERAL aclexplode(t.attacl) a WHERE c.oid = %(table)s AND a.grantee <> c.relowner
"""

_SEQUENCES = """
SELECT d.deptype::text, a.attname, n.nspname, c.relname
FROM pg_depend d
JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %s
    AND d.deptype IN ('a', 'i')
ORDER BY a.attnum
"""


def copy_counters(db: Database, source: Table, target: Table) -> list[tuple[sql.Identifier, sql.Identifier, str]]:
    """The identity columns of `target` go on where those of `source` are; for each the two sequences, and the name of
    the source's."""
    own = {column: (space, name) for kind, column, space, name in db.rows(_SEQUENCES, [target.oid]) if kind == "i"}
    pairs = []
    for kind, column, space, name in db.rows(_SEQUENCES, [source.oid]):
        if kind == "i" and column in own:
            old, new = sql.Identifier(space, name), sql.Identifier(*own[column])
            target_name = sql.Literal(new.as_string(None))
            db.rows(compose("SELECT setval({new}, last_value, is_called) FROM {old}", new=target_name, old=old))
            pairs.append((old, new, name))
    return pairs


def _trade_sequences(db: Database, live: Table, suffix: str, standby: Table) -> None:
    """The sequence of a serial column is shared, and owned by the live table; that of an identity column hands its
    value and its name on."""
    for kind, column, space, name in db.rows(_SEQUENCES, [live.oid]):
        if kind == "a":
            db.run(
                compose(
                    "ALTER SEQUENCE {sequence} OWNED BY {table}.{column}",
                    sequence=sql.Identifier(space, name),
                    table=standby.identifier,
                    column=sql.Identifier(column),
                )
            )
    for old, new, name in copy_counters(db, live, standby):
        rename = "ALTER SEQUENCE {sequence} RENAME TO {name}"
        db.run(compose(rename, sequence=old, name=sql.Identifier(clipped(name, suffix))))
        db.run(compose(rename, sequence=new, name=sql.Identifier(name)))


def _rename(db: Database, table: Table, kind: str, name: str, other: str) -> None:
    parts = {"old": sql.Identifier(name), "new": sql.Identifier(other)}
    if kind == "INDEX":
        db.run(compose("ALTER INDEX {old} RENAME TO {new}", old=sql.Identifier(table.schema, name), new=parts["new"]))
    elif kind == "CONSTRAINT":
        db.run(compose("ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}", table=table.identifier, **parts))
    else:
        db.run(compose("ALTER TABLE {table} RENAME TO {new}", table=table.identifier, new=parts["new"]))


def _role(name: str | None) -> sql.Composable:
    return sql.SQL("PUBLIC") if name is None else sql.Identifier(name)
