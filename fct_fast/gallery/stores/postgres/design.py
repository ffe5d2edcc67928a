"""What a sink will write: names, columns, and whether the new table is a twin of the source's.

Where the source is a table of the same database and comes whole, the new table is made like it, column for column, and
can take its place: a twin. Elsewhere it is made from the Arrow schema of the payload.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg import sql

from fct_fast.errors import ConfigError
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.postgres.database import Database
from fct_fast.gallery.stores.postgres.payload import kind_of
from fct_fast.gallery.stores.postgres.table import named_table
from fct_fast.gallery.stores.protocol import Layout

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Design", "clipped", "design_of", "payload_schema", "vector_name"]

NAME_BYTES = 63  # of an identifier, in a server as it is shipped
MAX_DIM = 16000  # of pgvector's types


@dataclass(frozen=True)
class Design:
    """The table to write. table: its final name, partial: the one until then, shards: of the table that knows which
    rows each shard has; before: what a source is called once it was replaced. source: oid of the table that it is a
    twin of, None where it is none; side: the twin's column of side-information, which is filled from the source. swap:
    the twin is to take the source's place. dim, kind: of the vectors."""

    schema: str
    table: str
    partial: str
    shards: str
    before: str
    key: str
    vector: str
    kind: str
    dim: int
    payload: pa.Schema
    source: int | None
    side: str | None
    swap: bool

    def named(self, name: str) -> sql.Identifier:
        return sql.Identifier(self.schema, name)


def clipped(name: str, suffix: str) -> str:
    """`name` + `suffix` as an identifier; of a long name a part and a checksum."""
    room = NAME_BYTES - len(suffix.encode())
    if len(name.encode()) <= room:
        return name + suffix
    mark = f"_{zlib.crc32(name.encode()):08x}"
    return name.encode()[: room - len(mark)].decode(errors="ignore") + mark + suffix


def payload_schema(layout: Layout) -> pa.Schema:
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(layout.payload)) if layout.payload else pa.schema([])


def vector_name(place: Place, layout: Layout) -> str:
    return place.column or str(layout.form.get("vector") or "embedding")


def design_of(db: Database, place: Place, layout: Layout, token: str) -> Design:
    """Lay out the table at a place. Raises ConfigError where it cannot hold what the layout says."""
    if "table" not in place.options:
        raise ConfigError(f"{place} names no table; add ?table=NAME")
    if place.options.get("swap", "no") != "no":
        raise ConfigError(f"{place}: swap is 'no' or left out, got {place.options['swap']!r:.80}")
    with db.reading():
        schema, table = named_table(db, place.options["table"])
        form = layout.form if _same_database(db, layout.form) else {}
    payload, vector = payload_schema(layout), vector_name(place, layout)
    _check(place, layout, payload)
    twin = bool(form) and list(payload.names) == list(form["columns"]) and not form["computed_key"]
    whole = twin and layout.rows == form["identity"]["rows"]
    return Design(
        schema=schema,
        table=table,
        partial=clipped(table, f"__partial_{token}"),
        shards=clipped(table, f"__shards_{token}"),
        before=clipped(str(form.get("table", table)), f"__before_{token}"),
        key=_key_name(place, layout, [*payload.names, vector], twin),
        vector=vector,
        kind="halfvec" if layout.dtype == np.float16 else "vector",
        dim=layout.dim,
        payload=payload,
        source=int(form["oid"]) if twin else None,
        side=form["side"] if twin else None,
        swap=whole and "swap" not in place.options,
    )


def _same_database(db: Database, form: Mapping[str, Any]) -> bool:
    return form.get("store") == "postgres" and db.identity() == (form["server"], form["database"])


def _check(place: Place, layout: Layout, payload: pa.Schema) -> None:
    if layout.dim > MAX_DIM:
        raise ConfigError(f"{place}: pgvector holds at most {MAX_DIM} values a row, not {layout.dim}")
    if layout.ids_dtype is not None and layout.ids_dtype.kind not in "iuUS":
        raise ConfigError(f"{place} keeps ids that are integers or text, not {layout.ids_dtype}")
    for field in payload:
        if kind_of(field.type) is None:
            raise ConfigError(
                f"{place} has no type for the column {field.name!r:.80} of {field.type}; leave the payload behind with "
                f"drop_payload=True (--drop-payload), or choose another sink"
            )


def _key_name(place: Place, layout: Layout, taken: list[str], twin: bool) -> str:
    """The column of ids: as in the source, where it has a name there."""
    wanted = str(layout.form.get("id") or "id")
    if twin or wanted not in taken:
        return wanted
    if layout.ids_dtype is None and "position" not in taken:  # what is called id is payload
        return "position"
    raise ConfigError(f"{place}: the ids and another column are both called {wanted!r:.80}; rename one in the source")
