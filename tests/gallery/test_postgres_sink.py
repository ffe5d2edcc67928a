"""Writing to PostgreSQL: the new table is a twin of the source down to its indexes, privileges and sequences, commits
are durable, and the source is not touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_support import NEW_DIM, OLD_DIM, SIDE_DIM, make_rows, small_bundle
from postgres_support import TOKEN, World, fill, layout_of, new_rows, server, write, written

from fct_fast.gallery import backfill, plan_backfill
from fct_fast.gallery.stores import Place, open_sink
from fct_fast.gallery.stores.postgres.database import Database
from fct_fast.gallery.stores.protocol import Shard
from fct_fast.space import SpaceFingerprint
from fct_fast.upgrader import Upgrader

COUNT = 60


@pytest.fixture
def at() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
def other() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def put_rich_table(world: World) -> None:
    """A table as an application has it."""
    fill(world.connection, "plain", make_rows(COUNT))
    world.run(
        "DROP ROLE IF EXISTS shopper, clerk, keeper",
        "CREATE ROLE shopper",
        "CREATE ROLE clerk",
        "CREATE ROLE keeper",
        "GRANT CREATE ON SCHEMA public TO keeper",
        "CREATE TABLE shelves (id integer PRIMARY KEY)",
        "INSERT INTO shelves VALUES (1)",
        f"""CREATE TABLE items (
            id bigserial, embedding vector({OLD_DIM}) NOT NULL CHECK (vector_dims(embedding) = {OLD_DIM}),
            psi vector({SIDE_DIM}) NOT NULL, title text DEFAULT 'untitled' CHECK (title <> 'bad'), price float8,
            seen timestamptz NOT NULL DEFAULT now(), ticket bigint GENERATED ALWAYS AS IDENTITY (START 500), shelf integer DEFAULT 1,
            loud text GENERATED ALWAYS AS (upper(title)) STORED,
            PRIMARY KEY (id), CONSTRAINT tickets UNIQUE (ticket) DEFERRABLE,
            CONSTRAINT on_a_shelf FOREIGN KEY (shelf) REFERENCES shelves (id) ON DELETE SET NULL
        ) WITH (fillfactor = 90)""",
        "INSERT INTO items (id, embedding, psi, title, price, seen) "
        "SELECT id, embedding, psi, title, price, coalesce(seen, now()) FROM plain",
        "SELECT setval('items_id_seq', 1000)",
        "CREATE INDEX items_near ON items USING hnsw (embedding vector_cosine_ops) WITH (m = 8, ef_construction = 32)",
        "CREATE INDEX items_lists ON items USING ivfflat (embedding) WITH (lists = 3)",
        f"CREATE INDEX items_half ON items USING hnsw ((embedding::halfvec({OLD_DIM})) halfvec_l2_ops) WHERE price > 0",
        f"CREATE INDEX items_bits ON items USING hnsw ((binary_quantize(embedding)::bit({OLD_DIM})) bit_hamming_ops)",
        "CREATE UNIQUE INDEX tickets_too ON items (ticket)",
        "CREATE INDEX items_psi ON items USING hnsw (psi vector_l2_ops)",
        'CREATE INDEX "Items by Title" ON items (lower(title), price DESC) INCLUDE (seen) WHERE title IS NOT NULL',
        "COMMENT ON TABLE items IS 'what is sold'",
        "COMMENT ON COLUMN items.title IS 'as printed'",
        "COMMENT ON COLUMN items.embedding IS 'of the picture'",
        "GRANT SELECT ON items TO shopper",
        "GRANT UPDATE (title) ON items TO clerk WITH GRANT OPTION",
        "GRANT SELECT ON items TO PUBLIC",
        "ALTER TABLE items OWNER TO keeper",
        "ALTER TABLE items REPLICA IDENTITY USING INDEX tickets_too",
        "DROP TABLE plain",
    )


def described(world: World, table: str) -> dict[str, Any]:
    """All of a table that an application relies on, by name, with the vectors' dimension left out."""
    oid = f"'{table}'::regclass"

    def listed(query: str) -> list[Any]:
        return sorted(
            tuple(str(cell).replace(f"({OLD_DIM})", "(D)").replace(f"({NEW_DIM})", "(D)") for cell in row)
            for row in world.run(query)
        )

    return {
        "columns": listed(
            f"SELECT attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, "
            f"pg_get_expr(adbin, adrelid), col_description(attrelid, attnum), attacl FROM pg_attribute LEFT JOIN pg_attrdef "
            f"ON adrelid = attrelid AND adnum = attnum WHERE attrelid = {oid} AND attnum > 0"
        ),
        "indexes": listed(
            f"SELECT indexrelid::regclass, indisreplident, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = {oid}"
        ),
        "constraints": listed(
            f"SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = {oid} AND contype <> 'n'"
        ),
        "table": listed(
            f"SELECT relname, pg_get_userbyid(relowner), relreplident, relacl, reloptions, obj_description(oid, 'pg_class') FROM pg_class WHERE oid = {oid}"
        ),
        "sequences": listed(
            f"SELECT attname, pg_get_serial_sequence('{table}', attname) FROM pg_attribute WHERE attrelid = {oid} AND attnum > 0"
        ),
    }


def test_a_live_twin_is_all_that_its_source_was(at: World) -> None:
    """Under the same names; with the rows that an application adds, and back again."""
    put_rich_table(at)
    before, rows = (
        described(at, "items"),
        at.run("SELECT id, title, price::text, seen, ticket, shelf, loud, psi FROM items ORDER BY id"),
    )
    whole = at.dump("--table", "items")
    source = at.open()
    assert list(source.notes) == [f"Generated columns of {at.place()} (loud) are computed anew, or left out."]
    sink = written(source, at.place(table="items_v2"))
    assert sink.notes == ["items_v2 gets no constraint like items_embedding_check, which looks at the old vectors."]
    assert sink.build_seconds > 0
    assert at.dump("--table", "items") == whole  # not touched so far
    sink.cut_over()
    assert sink.live
    assert sink.published
    after = described(at, "items")
    before["constraints"] = [found for found in before["constraints"] if found[0] != "items_embedding_check"]
    assert after == before
    assert at.run("SELECT id, title, price::text, seen, ticket, shelf, loud, psi FROM items ORDER BY id") == rows
    assert at.run("SELECT vector_dims(embedding) FROM items LIMIT 1") == [(NEW_DIM,)]
    added = f"INSERT INTO items (embedding, psi) VALUES ('{[1.0] * NEW_DIM}', '{[1.0] * SIDE_DIM}') ON CONFLICT ON CONSTRAINT items_pkey DO NOTHING RETURNING id, ticket"
    ((key, ticket),) = at.run(added)
    assert key == 1001
    assert ticket >= 500 + COUNT
    with pytest.warns(UserWarning, match=r"items_v2.* was changed while it was live"):
        sink.roll_back()
    assert not sink.live
    assert at.dump("--table", "items") == whole.replace(
        "'public.items_id_seq', 1000", "'public.items_id_seq', 1001"
    ).replace(f"'public.items_ticket_seq', {499 + COUNT}", f"'public.items_ticket_seq', {ticket}")
    sink.close()
    source.close()


def test_a_float16_twin_has_halfvec_and_its_operators(at: World) -> None:
    put_rich_table(at)
    source = at.open()
    sink = written(source, at.place(table="items_v2"), dtype="<f2")
    defs = dict(
        at.run(
            "SELECT relname, pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = 'items_v2'::regclass"
        )
    )
    for name, words in {
        "items_near": "USING hnsw (embedding halfvec_cosine_ops) WITH (m='8', ef_construction='32')",
        "items_lists": "USING ivfflat (embedding halfvec_l2_ops) WITH (lists='3')",
        "items_half": "USING hnsw (embedding halfvec_l2_ops) WHERE (price > (0)::double precision)",
        "items_bits": f"USING hnsw (((binary_quantize(embedding))::bit({NEW_DIM})) bit_hamming_ops)",
        "items_psi": "USING hnsw (psi vector_l2_ops)",
    }.items():
        assert words in defs[f"{name}__{TOKEN}"]
    assert sink.load(Shard(0, 0, 25)).new.dtype == np.float16
    source.close()
    sink.close()


@pytest.mark.parametrize(
    ("dtype", "dim", "built"), [("<f4", 2000, True), ("<f4", 2001, False), ("<f2", 4000, True), ("<f2", 4001, False)]
)
def test_an_index_that_cannot_hold_the_new_rows_is_left_out_with_a_note(
    at: World, other: World, dtype: str, dim: int, built: bool
) -> None:
    fill(at.connection, "items", make_rows(COUNT))
    at.run("CREATE INDEX near ON items USING hnsw (embedding vector_l2_ops) WITH (m = 4, ef_construction = 8)")
    source = at.open()
    for place, table in ((at.place(table="fresh"), at), (other.place(table="fresh"), other)):
        sink = written(source, place, dtype, dim)
        limited = [note for note in sink.notes if "no index like" in note]
        assert len(limited) == (not built)
        if not built:
            assert f"hnsw takes at most {dim - 1} values of {'halfvec' if dtype == '<f2' else 'vector'}" in limited[0]
        assert (sink.build_seconds > 0) == built
        found = table.run("SELECT count(*) FROM pg_indexes WHERE tablename = 'fresh' AND indexdef LIKE '%hnsw%'")
        assert found == [(int(built),)]
        sink.close()
    source.close()


def test_the_space_is_stamped_beside_the_comment_that_was_there(at: World) -> None:
    fill(at.connection, "items", make_rows(COUNT))
    at.run("COMMENT ON COLUMN items.embedding IS 'of the picture'")
    source = at.open()
    layout, space = layout_of(source), SpaceFingerprint.measure(new_rows(COUNT), model_id="new-1")
    sink = open_sink(at.place(table="fresh"), layout, TOKEN)
    write(sink, source, layout)
    sink.publish(space)
    assert sink.space == space
    ((comment,),) = at.run("SELECT col_description('fresh'::regclass, 2)")
    assert comment.splitlines()[0] == "of the picture"
    state = sink.state()
    at.run("COMMENT ON COLUMN fresh.embedding IS 'of the picture'")
    assert sink.space is None
    assert sink.state() != state
    source.close()
    sink.close()


# Promises


def test_a_commit_is_durable_whatever_the_server_defaults_to(at: World) -> None:
    for default, expected in (("off", "on"), ("local", "on"), ("on", "on"), ("remote_apply", "remote_apply")):
        at.run(f"ALTER DATABASE {at.database} SET synchronous_commit = {default}")
        db = Database(Place.parse(at.place()))
        with db.writing():
            assert db.one("SHOW synchronous_commit") == (expected,)
        db.close()


def test_a_server_that_does_not_flush_is_noted(at: World) -> None:
    fill(at.connection, "items", make_rows(COUNT))
    source = at.open()
    sink: Any = open_sink(at.place(table="fresh"), layout_of(source), "")
    assert sink.notes == []
    try:
        at.run("ALTER SYSTEM SET fsync = off")
        server().reload()
        sink.close()
        assert sink.notes == ["The server of fresh runs with fsync off: a power cut there can lose what was committed."]
    finally:
        at.run("ALTER SYSTEM RESET fsync")
        server().reload()
    source.close()
    sink.close()


def test_a_whole_job_leaves_the_source_and_all_else_as_they_were(at: World, tmp_path: Path) -> None:
    put_rich_table(at)
    before = at.dump()
    up = Upgrader(small_bundle(make_rows(COUNT)), threads=1)
    source = {"old": at.place(), "side": "#psi"}
    job = plan_backfill(source, at.place(table="items_v2"), up, job_dir=tmp_path / "job", shard_rows=17)
    assert job.plan.store_cutover
    assert at.dump() == before  # a plan touches nothing
    job.run()
    assert job.verify().passed
    at.run(
        "DROP TABLE items_v2, items_v2__shards_"
        + next(n for (n,) in at.run("SELECT right(relname, 8) FROM pg_class WHERE relname ~ '^items_v2__shards_.{8}$'"))
    )
    assert at.dump() == before


def test_less_than_the_whole_source_never_takes_its_place(at: World, tmp_path: Path) -> None:
    put_rich_table(at)
    up = Upgrader(small_bundle(make_rows(COUNT)), threads=1)
    source = {"old": at.place(), "side": "#psi"}
    for number, (place, options, words) in enumerate(
        [
            (at.place(table="fresh"), {"limit": 50}, "lacks rows"),
            (at.place(table="fresh"), {"drop_payload": True}, "not of the same columns"),
            (at.place(table="fresh", swap="no"), {}, "says swap=no"),
        ]
    ):
        plan = plan_backfill(source, place, up, job_dir=tmp_path / str(number), **options).plan
        assert not plan.store_cutover
        assert any("will not take the name of items" in note and words in note for note in plan.notes)
    report = backfill(source, at.place(table="fresh"), up, job_dir=tmp_path / "job", limit=50, shard_rows=20)
    assert report.rows == 50
    assert at.run("SELECT count(*), max(vector_dims(embedding)) FROM fresh") == [(50, NEW_DIM)]
