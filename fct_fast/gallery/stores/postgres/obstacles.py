"""What stands in the way of a table being replaced by renaming: all that is bound to the table itself and not to its
name, and would go on with the old one."""

from __future__ import annotations

from fct_fast.gallery.stores.postgres.database import Database
from fct_fast.gallery.stores.postgres.design import Design
from fct_fast.gallery.stores.postgres.table import Table

__all__ = ["generated_from", "obstacle"]

# Views, functions, foreign keys of others and the like depend on the table, its columns or its row type; triggers,
# policies, rules and memberships of publications belong to it. Its own checks, defaults and indexes are made anew.
_BOUND = """
SELECT pg_describe_object(d.classid, d.objid, 0)
FROM pg_depend d
LEFT JOIN pg_constraint c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid
LEFT JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
LEFT JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
WHERE (
    (d.refclassid = 'pg_class'::regclass AND d.refobjid = %(table)s)
    OR (d.refclassid = 'pg_type'::regclass AND d.refobjid IN (
        SELECT unnest(ARRAY[y.oid, y.typarray]) FROM pg_type y JOIN pg_class r ON r.reltype = y.oid
        WHERE r.oid = %(table)s))
) AND (
    (d.deptype = 'n' AND NOT coalesce(c.conrelid = %(table)s AND c.confrelid <> %(table)s, false)
     AND NOT coalesce(a.adrelid = %(table)s, false))
    OR (d.classid = 'pg_trigger'::regclass AND NOT t.tgisinternal)
    OR d.classid IN ('pg_policy'::regclass, 'pg_rewrite'::regclass, 'pg_publication_rel'::regclass)
)
ORDER BY 1 LIMIT 1
"""
_GENERATED = """
SELECT a.attname FROM pg_attrdef f
JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum AND a.attgenerated <> ''
JOIN pg_depend d ON d.refobjid = f.adrelid AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid = %s
    AND ((d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid)
         OR (d.classid = 'pg_class'::regclass AND d.objid = f.adrelid AND d.objsubid = f.adnum))
WHERE f.adrelid = %s
ORDER BY a.attnum
"""


def obstacle(db: Database, source: Table, design: Design) -> str | None:
    """The first thing that keeps `source` from being replaced, as words that go after "because"; None where nothing
    does."""
    vector = source.column(design.vector)
    if vector is None:
        return f"it has no column {design.vector!r:.80} of vectors as the new table will"
    if (source.schema, source.kind) != (design.schema, "r"):
        return f"it is partitioned, or in the schema {source.schema} and not {design.schema}"
    owner, mine, secured, parent = db.one(
        "SELECT pg_get_userbyid(relowner), pg_has_role(relowner, 'USAGE'), relrowsecurity, "
        "(SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = c.oid LIMIT 1) "
        "FROM pg_class c WHERE oid = %s",
        [source.oid],
    )
    if not mine:
        return f"only its owner {owner} may rename it"
    if parent is not None:
        return f"it is a part of {parent}"
    if secured:
        return "it has row-level security"
    generated = generated_from(db, source, vector.number)
    if generated:
        return f"its column {generated[0]} is generated from the old vectors"
    bound = db.rows(_BOUND, {"table": source.oid})
    return f"of {bound[0][0]}" if bound else None


def generated_from(db: Database, table: Table, number: int) -> list[str]:
    """The columns of a table that are computed from the one with this number."""
    return [name for (name,) in db.rows(_GENERATED, [number, table.oid])]
