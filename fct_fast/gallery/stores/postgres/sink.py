"""Writing a gallery into a PostgreSQL table, staged beside its place until it is published."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING

from psycopg import sql

from fct_fast.errors import StoreError
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.postgres.cutover import replace_source, restore_source
from fct_fast.gallery.stores.postgres.database import Database, compose
from fct_fast.gallery.stores.postgres.design import Design, design_of, vector_name
from fct_fast.gallery.stores.postgres.encoding import Content
from fct_fast.gallery.stores.postgres.notes import notes_of
from fct_fast.gallery.stores.postgres.obstacles import obstacle
from fct_fast.gallery.stores.postgres.publishing import planned_twins, publish, require_whole
from fct_fast.gallery.stores.postgres.shards import read_shard, write_shard
from fct_fast.gallery.stores.postgres.staging import create, new_table, read_note, source_of
from fct_fast.gallery.stores.postgres.stamp import read_stamp
from fct_fast.gallery.stores.postgres.survey import identity_of
from fct_fast.gallery.stores.postgres.table import Table, find_table, vector_types
from fct_fast.gallery.stores.postgres.twins import Twin, index_seconds
from fct_fast.gallery.stores.protocol import Array, Capabilities, Layout, Loaded, Shard
from fct_fast.space import SpaceFingerprint, canonical_json

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PostgresSink"]


class PostgresSink:
    """A table of vectors to write; see `protocol.LiveSink`. The server is asked when something is to be known."""

    free_bytes: int | None = None
    held_bytes = 0

    def __init__(self, place: Place, layout: Layout, token: str) -> None:
        self._place = Place(place.location, place.options, vector_name(place, layout))
        self._layout, self._token = layout, token
        self._db = Database(self._place)
        self._told: str | None = None  # the state that was last asked for, and verified

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(atomic_swap=True, ids=True, payload=True, snapshot=False, cutover=self._design.swap)

    @property
    def place(self) -> str:
        return str(self._place)

    @property
    def build_seconds(self) -> float:
        return index_seconds(self._layout.rows, self._layout.dim, self._planned_twins())

    @property
    def notes(self) -> list[str]:
        with self._db.reading():
            return list(notes_of(self._db, self._place, self._design, self._layout, self._planned_twins()))

    def refuse_existing(self) -> None:
        design, name = self._design, self._place.name
        with self._db.reading():
            if find_table(self._db, (design.schema, design.table)) is not None:
                raise StoreError(f"{self.place} already exists and is not of this job; drop it or choose another sink")
            vector_types(self._db)
            if not self._db.one("SELECT has_schema_privilege(%s, 'CREATE')", [design.schema])[0]:
                raise StoreError(
                    f"{self.place}: the user may not create tables in the schema {design.schema}; have its owner grant "
                    f"CREATE, or name another schema: ?table=SCHEMA.{name.rpartition('.')[2]}"
                )
            self._refuse_obstacles()

    def begin(self) -> None:
        if self.published:
            return
        with self._db.reading():
            there = new_table(self._db, self._design)
            if there is None:
                self._refuse_obstacles()
        if there is None:
            create(self._db, self._design, self._layout, self._token)

    def write(self, shard: Shard, new: Array, ids: Array | None, payload: pa.Table | None) -> bytes:
        where = self.where(shard)
        content = Content.of(shard, new, ids, payload, where)
        return write_shard(self._db, self._design, self._table(), shard, content, where)

    def load(self, shard: Shard) -> Loaded:
        with self._db.reading():
            return read_shard(self._db, self._design, self._layout, self._table(), shard, self.where(shard))

    def fault(self, shards: Collection[int]) -> str | None:
        if not shards:
            return None
        with self._db.reading():
            table = new_table(self._db, self._design)
            if table is None:
                return f"{self.place} has no table of this job, but {len(shards)} shards were committed"
            known = compose("SELECT shard, cardinality(keys) FROM {s}", s=self._design.named(self._design.shards))
            rows = dict(self._db.rows(known))
            for shard in map(self._layout.shard, sorted(shards)):
                if rows.get(shard.index) != shard.rows:
                    return (
                        f"{self.where(shard)} has {rows.get(shard.index, 'no')} rows, but {shard.rows} were committed"
                    )
            if self._db.one(compose("SELECT count(*) FROM {table}", table=table.identifier))[0] >= sum(rows.values()):
                return None
            for shard in map(self._layout.shard, sorted(shards)):
                (count,) = self._db.one(self._count_of(table, shard))
                if count != shard.rows:
                    return f"{self.where(shard)} has {count} rows, but {shard.rows} were committed"
        return f"{self.place} lost rows"

    def where(self, shard: Shard) -> str:
        return f"{self.place}, shard {shard.index} (rows {shard.start} to {shard.stop - 1})"

    def publish(self, space: SpaceFingerprint | None) -> None:
        if self.published:
            return
        table = self._table()
        require_whole(self._db, self._design, self._layout, table, self.place)
        publish(self._db, self._design, table, self._layout.form, self._token, space)

    @property
    def published(self) -> bool:
        table = new_table(self._db, self._design)
        return table is not None and table.name != self._design.partial

    @property
    def space(self) -> SpaceFingerprint | None:
        with self._db.reading():
            table = self._table()
            column = table.column(self._design.vector)
            return None if column is None else read_stamp(self._db, table, column)

    def state(self) -> str:
        self._told = self._state_of(self._table())
        return self._told

    def cut_over(self) -> None:
        table = self._table()
        if self._is_live(table):
            return

        def checked() -> str:
            state = self._state_of(table)
            if self._told not in (None, state):
                raise StoreError(f"{self.place} was changed since it was verified; verify it again")
            return state

        replace_source(self._db, self._design, table, self._layout.form, self._token, checked)

    def roll_back(self) -> None:
        """See `protocol.LiveSink`. Rows that were changed while the new table was live stay in it, under the name that
        it was published with, as does what was bound to it meanwhile; a warning says so where there is any."""
        table = self._table()
        if not self._is_live(table):
            return
        note = read_note(self._db, self._design)
        bound, state = restore_source(self._db, self._design, table, self._token), None
        if bound is not None:
            warnings.warn(
                f"{self._layout.form['table']} is the table before the cutover again, but because {bound}, that goes "
                f"on with {self._place.name}; make it anew",
                stacklevel=2,
            )
        with contextlib.suppress(StoreError):  # it is done, whatever comes of this look
            state = self._state_of(table)
        if note is not None and None not in (note["live"], state) and note["live"] != state:
            warnings.warn(
                f"{self.place} was changed while it was live, and these changes are in no other table: bring over what "
                f"{self._layout.form['table']}, which is live again, needs of them",
                stacklevel=2,
            )

    @property
    def live(self) -> bool:
        return self._is_live(new_table(self._db, self._design))

    def close(self) -> None:
        self._db.close()

    @cached_property
    def _design(self) -> Design:
        return design_of(self._db, self._place, self._layout, self._token)

    def _table(self) -> Table:
        table = new_table(self._db, self._design)
        if table is None:
            raise StoreError(f"{self.place} holds no table of this job; run the job again with repair=True (--repair)")
        return table

    def _planned_twins(self) -> list[Twin]:
        target = self._design.named(self._design.partial)
        return planned_twins(self._db, self._design, self._layout.form, target, self._token)

    def _refuse_obstacles(self) -> None:
        if not self._design.swap:
            return
        reason = obstacle(self._db, source_of(self._db, self._design), self._design)
        if reason is not None:
            raise StoreError(
                f"{self._layout.form['table']} cannot be replaced by renaming, because {reason}; remove that, or add "
                f"swap=no to the sink, {self._place.gallery}, to leave the cutover to a pointer file"
            )

    def _is_live(self, table: Table | None) -> bool:
        form = self._layout.form
        return (
            table is not None
            and self._design.source is not None
            and (table.schema, table.name) == (form["schema"], form["table"])
        )

    def _state_of(self, table: Table) -> str:
        with self._db.reading():
            column = table.column(self._design.vector)
            space = None if column is None else read_stamp(self._db, table, column)
            state = identity_of(self._db, table.oid, self._design.key, self.place)
        state["space"] = None if space is None else space.digest
        return hashlib.sha256(canonical_json(state)).hexdigest()

    def _count_of(self, table: Table, shard: Shard) -> sql.Composed:
        return compose(
            "SELECT count(*) FROM {shards} s CROSS JOIN LATERAL unnest(s.keys) AS k(key) "
            "JOIN {table} t ON t.{key} = k.key WHERE s.shard = {shard}",
            shards=self._design.named(self._design.shards),
            table=table.identifier,
            key=sql.Identifier(self._design.key),
            shard=sql.Literal(shard.index),
        )
