"""Writing to PostgreSQL: payload of every type arrives unchanged, the new table is a twin of the source down to its
indexes, privileges and sequences, and the source is not touched."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from gallery_support import NEW_DIM, OLD_DIM, SIDE_DIM, make_rows, small_bundle
from postgres_support import World, fill, server

from fct_fast import errors
from fct_fast.gallery import backfill, plan_backfill
from fct_fast.gallery.stores import Place, open_sink, open_source
from fct_fast.gallery.stores.payload import first_difference
from fct_fast.gallery.stores.postgres.database import Database
from fct_fast.gallery.stores.protocol import Layout, Shard, Sink
from fct_fast.space import SpaceFingerprint
from fct_fast.upgrader import Upgrader

COUNT = 60
WHOLE = Shard(0, 0, COUNT)


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


def layout_of(source: Any, dtype: str = "<f4", dim: int = NEW_DIM, shard_rows: int = 25) -> Layout:
    return Layout(source.rows, dim, np.dtype(dtype), source.ids_dtype, shard_rows, source.payload, dict(source.form))


def new_rows(dim: int = NEW_DIM, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(4).standard_normal((COUNT, dim)).astype(dtype)


def write(sink: Sink, source: Any, layout: Layout, new: np.ndarray) -> None:
    """All shards of a source, as a job would."""
    sink.refuse_existing()
    sink.begin()
    for shard in map(layout.shard, range(layout.shards)):
        rows = source.read(shard)
        digest = sink.write(shard, new[shard.start : shard.stop], rows.ids, rows.payload)
        assert sink.load(shard).digest == digest


def written(source: Any, place: str, dtype: str = "<f4", dim: int = NEW_DIM, token: str = "0a1b2c3d") -> Any:
    """A published sink with all rows of a source."""
    layout = layout_of(source, dtype, dim)
    sink: Any = open_sink(place, layout, token)
    write(sink, source, layout, new_rows(dim, layout.dtype.name))
    sink.publish(None)
    return sink


# Payload


COLUMNS = {
    "plain boolean": ["true", "false"],
    "small smallint": ["-32768", "32767"],
    "whole integer": ["-2147483648", "2147483647"],
    "large bigint": ["-9223372036854775808", "9223372036854775807"],
    "half real": ["0.1", "'NaN'", "'-Infinity'", "1e-45", "3.4028235e38"],
    "full float8": ["0.1", "'NaN'", "'Infinity'", "5e-324", "-0.0::float8", "1.7976931348623157e308"],
    "exact numeric": ["0.10", "'NaN'", "1e100", "-1.5000"],
    "scaled numeric(12,3)": ["0.100", "-123456789.125"],
    "words text": ["''", "E'a\\n\"b\",\\\\.\\t'", "'NULL'", "'☃'"],
    "padded char(5)": ["'ab'", "''"],
    "short varchar(5)": ["'ab   '", "'NULL'"],
    "raw bytea": ["''", "'\\x00ff10'"],
    "day date": ["'2024-02-29'", "'0001-01-01'"],
    "endless date": ["'infinity'", "'4713-01-01 BC'"],
    "moment timestamp": ["'2024-02-29 12:00:00.000001'", "'1969-12-31 23:59:59.999999'"],
    "zoned timestamptz": ["'2024-02-29 12:00:00+05:30'", "'0001-01-01 00:00:00+00'"],
    "far timestamptz": ["'-infinity'", "'20000-01-01 00:00:00+00'"],
    "hour time": ["'24:00:00'", "'12:00:00.5'"],
    "span interval": ["'1 year 2 mons -3 days 04:05:06.789'"],
    "tree jsonb": ['\'{"b": [1, null, "x"], "a": 1e3}\'', "'null'"],
    "source json": ['\'{ "b" :1,"b":2}\''],
    "list text[]": ["ARRAY['a,b', NULL, '\"q\"']", "'{}'"],
    "grid integer[]": ["'{{1,2},{3,4}}'"],
    "code uuid": ["gen_random_uuid()"],
    "address inet": ["'10.0.0.1/8'"],
    "feeling mood": ["'fine'", "'so so'"],
    "pair couple": ["ROW(1, 'x,\"y')::couple"],
    "range int4range": ["'[1,5)'", "'empty'"],
    "other vector(3)": ["'[1,2.5,-3e-20]'"],
    "loose sparsevec": ["'{1:0.5}/7'"],
    "bits bit(5)": ["B'10110'"],
}


def put_every_type(world: World) -> None:
    world.run("CREATE TYPE mood AS ENUM ('fine', 'so so')", "CREATE TYPE couple AS (n integer, t text)")
    world.run(
        f"CREATE TABLE items (id integer PRIMARY KEY, embedding vector({OLD_DIM}), psi vector({SIDE_DIM}), "
        + ", ".join(f'"{name.split()[0]} c" {name.partition(" ")[2]}' for name in COLUMNS)
        + ")"
    )
    values = list(COLUMNS.values())
    for i in range(COUNT):
        row = ", ".join("NULL" if (i + n) % 5 == 4 else found[i % len(found)] for n, found in enumerate(values))
        world.run(f"INSERT INTO items VALUES ({i}, '{[float(i)] * OLD_DIM}', '{[1.0] * SIDE_DIM}', {row})")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_columns_of_every_type_arrive_unchanged(at: World, other: World, elsewhere: bool) -> None:
    """In a twin as they are; in another database of the same types, where that has them, else as text."""
    put_every_type(at)
    source = at.open()
    sink = written(source, (other if elsewhere else at).place(table="fresh"))
    assert sink.capabilities.cutover != elsewhere
    read, loaded = source.read(Shard(0, 0, 25)), sink.load(Shard(0, 0, 25))
    assert first_difference(read.payload, loaded.payload) is None
    assert np.array_equal(read.ids, loaded.ids)
    names = ["id", *(f'"{name.split()[0]} c"' for name in COLUMNS)]
    there = other if elsewhere else at
    query = "SELECT " + ", ".join(f"{name}::text" for name in names) + " FROM {} ORDER BY id"
    assert there.run(query.format("fresh")) == at.run(query.format("items"))
    types = "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0"
    expected = dict(at.run(types.format("items"))) | {"embedding": f"vector({NEW_DIM})"}
    if elsewhere:
        del expected["psi"]
        expected |= {"feeling c": "text", "pair c": "text"}  # types that the other database does not have
    assert dict(there.run(types.format("fresh"))) == expected
    if not elsewhere:  # side-information stays with its row
        assert at.run("SELECT count(*) FROM items i JOIN fresh f USING (id) WHERE i.psi = f.psi") == [(COUNT,)]
    source.close()
    sink.close()


UTC = datetime.UTC
ARROW: list[tuple[pa.DataType, list[Any]]] = [
    (pa.bool_(), [True, False]),
    (pa.int8(), [-128, 127]),
    (pa.uint8(), [255]),
    (pa.uint16(), [65535]),
    (pa.uint32(), [2**32 - 1]),
    (pa.int64(), [-(2**63), 2**63 - 1]),
    (pa.uint64(), [2**64 - 1, 0]),
    (pa.float16(), [np.float16(0.1), np.float16("nan")]),
    (pa.float32(), [0.1, float("inf")]),
    (pa.float64(), [0.1, float("nan"), -0.0]),
    (pa.string(), ["", 'a\n"b",\\.']),
    (pa.large_string(), ["x" * 3000]),
    (pa.binary(), [b"", b"\0\xff"]),
    (pa.large_binary(), [b"\n"]),
    (pa.date32(), [datetime.date(1, 1, 1), datetime.date(2024, 2, 29)]),
    (pa.date64(), [datetime.date(2024, 2, 29)]),
    (pa.time32("s"), [datetime.time(23, 59, 59)]),
    (pa.time64("us"), [datetime.time(0, 0, 0, 1)]),
    (pa.timestamp("s"), [datetime.datetime(2024, 2, 29, 1, 2, 3)]),
    (pa.timestamp("us"), [datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59, 999999)]),
    (pa.timestamp("ns"), [datetime.datetime(2024, 2, 29, 1, 2, 3, 4)]),
    (pa.timestamp("ms", "Europe/Berlin"), [datetime.datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC)]),
    (pa.decimal128(12, 3), [decimal.Decimal("-123456789.125"), decimal.Decimal("0.100")]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", "b"]),
    (pa.null(), [None]),
]


def arrow_payload() -> pa.Table:
    columns = {}
    for number, (kind, values) in enumerate(ARROW):
        cells = [None if (i + number) % 4 == 3 else values[i % len(values)] for i in range(COUNT)]
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        columns[f"column {number} %s {{}}"] = pa.array(cells, plain).cast(kind)
    return pa.table(columns)


@pytest.mark.parametrize("ids", ["<i8", "<u4", "|u1", "<i2", "<U7", "|S5", None])
def test_a_table_is_made_from_any_arrow_schema_and_any_ids(at: World, ids: str | None) -> None:
    """What other stores give; ids in no order."""
    payload = arrow_payload()
    keys = None if ids is None else np.random.default_rng(1).permutation(COUNT).astype(ids)
    layout = Layout(
        COUNT,
        NEW_DIM,
        np.dtype("<f4"),
        None if ids is None else np.dtype(ids),
        25,
        payload.schema.serialize().to_pybytes(),
        {"store": "parquet", "id": "key"},
    )
    sink: Any = open_sink(at.place(column=""), layout, "0a1b2c3d")
    sink.begin()
    new, seen = new_rows(), {}
    for index in (2, 0, 1, 0):
        shard = layout.shard(index)
        part = slice(shard.start, shard.stop)
        seen[index] = sink.write(
            shard, new[part], None if keys is None else keys[part], payload.slice(shard.start, shard.rows)
        )
    sink.publish(None)
    assert not sink.capabilities.cutover
    for shard in map(layout.shard, range(3)):
        loaded = sink.load(shard)
        assert loaded.digest == seen[shard.index]
        assert np.array_equal(loaded.new, new[shard.start : shard.stop])
        assert first_difference(payload.slice(shard.start, shard.rows), loaded.payload) is None
        assert (loaded.ids is None) == (keys is None)
        if keys is not None:
            assert loaded.ids.dtype == keys.dtype
            assert np.array_equal(loaded.ids, keys[shard.start : shard.stop])
    source = open_source(at.place())
    read = source.read(WHOLE)
    expected = np.arange(COUNT) if keys is None else np.sort(keys.astype(str) if keys.dtype.kind == "S" else keys)
    assert np.array_equal(read.ids, expected)
    assert np.array_equal(read.old, new if keys is None else new[np.argsort(keys)])
    source.close()
    sink.close()


BAD_PAYLOAD = [
    (pa.array(["a\0b"]), "invalid byte sequence"),
    (pa.array([1], pa.timestamp("ns")), "would lose data"),
    (pa.array([-(2**63)], pa.timestamp("us")), "a time before"),
    (pa.array([-(2**62)], pa.timestamp("us")), "timestamp out of range"),
]


@pytest.mark.parametrize(("column", "words"), BAD_PAYLOAD)
def test_a_value_that_postgres_cannot_hold_ends_the_job_with_a_sentence(
    at: World, column: pa.Array, words: str
) -> None:
    payload = pa.table({"c": column})
    layout = Layout(1, 2, np.dtype("<f4"), np.dtype("<i8"), 1, payload.schema.serialize().to_pybytes())
    sink = open_sink(at.place(), layout, "0a1b2c3d")
    sink.begin()
    with pytest.raises(errors.StoreError, match=words) as raised:
        sink.write(layout.shard(0), np.ones((1, 2), np.float32), np.array([1]), payload)
    assert "\n" not in str(raised.value)
    assert sink.fault([0]) is not None
    sink.close()


def test_what_no_table_can_hold_is_refused_before_anything_is_made(at: World) -> None:
    def sink(schema: pa.Schema | None = None, ids: str | None = "<i8", dim: int = 2, place: str = at.place()) -> Any:
        payload = b"" if schema is None else schema.serialize().to_pybytes()
        opened = open_sink(
            place, Layout(1, dim, np.dtype("<f4"), np.dtype(ids) if ids else None, 1, payload), "0a1b2c3d"
        )
        return opened.capabilities

    before = at.dump()
    for kind in (pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.duration("s")):
        with pytest.raises(errors.ConfigError, match=r"has no type for the column 'c' of .*--drop-payload"):
            sink(pa.schema([("c", kind)]))
    with pytest.raises(errors.ConfigError, match="at most 16000 values"):
        sink(dim=16001)
    with pytest.raises(errors.ConfigError, match="both called 'id'"):
        sink(pa.schema([("id", pa.int64())]))
    sink(pa.schema([("id", pa.int64())]), ids=None)  # positions get another name
    with pytest.raises(errors.ConfigError, match="ids that are integers or text"):
        sink(ids="<f8")
    with pytest.raises(errors.ConfigError, match="swap is 'no' or left out"):
        sink(place=at.place(swap="yes"))
    with pytest.raises(errors.ConfigError, match="names no table"):
        sink(place=f"postgresql://postgres@/{at.database}?host={server().host}")
    assert at.dump() == before


def test_an_id_beyond_the_integers_or_twice_is_refused(at: World) -> None:
    layout = Layout(2, 2, np.dtype("<f4"), np.dtype("<u8"), 2)
    sink = open_sink(at.place(), layout, "0a1b2c3d")
    sink.begin()
    for ids, words in (([1, 2**63], "cannot keep the id 9223372036854775808"), ([7, 7], "ids must be unique")):
        with pytest.raises(errors.StoreError, match=words):
            sink.write(layout.shard(0), np.ones((2, 2), np.float32), np.array(ids, np.uint64), None)
    sink.close()


# The twin


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
        "CREATE INDEX items_psi ON items USING hnsw (psi vector_l2_ops)",
        'CREATE INDEX "Items by Title" ON items (lower(title), price DESC) INCLUDE (seen) WHERE title IS NOT NULL',
        "COMMENT ON TABLE items IS 'what is sold'",
        "COMMENT ON COLUMN items.title IS 'as printed'",
        "COMMENT ON COLUMN items.embedding IS 'of the picture'",
        "GRANT SELECT ON items TO shopper",
        "GRANT UPDATE (title) ON items TO clerk WITH GRANT OPTION",
        "GRANT SELECT ON items TO PUBLIC",
        "ALTER TABLE items OWNER TO keeper",
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
            f"SELECT indexrelid::regclass, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = {oid}"
        ),
        "constraints": listed(
            f"SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = {oid} AND contype <> 'n'"
        ),
        "table": listed(
            f"SELECT relname, pg_get_userbyid(relowner), relacl, reloptions, obj_description(oid, 'pg_class') FROM pg_class WHERE oid = {oid}"
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
        assert words in defs[f"{name}__0a1b2c3d"]
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
    layout, space = layout_of(source), SpaceFingerprint.measure(new_rows(), model_id="new-1")
    sink = open_sink(at.place(table="fresh"), layout, "0a1b2c3d")
    write(sink, source, layout, new_rows())
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
            (at.place(table="fresh"), {"drop_payload": True}, "lacks columns"),
            (at.place(table="fresh", swap="no"), {}, "says swap=no"),
        ]
    ):
        plan = plan_backfill(source, place, up, job_dir=tmp_path / str(number), **options).plan
        assert not plan.store_cutover
        assert any("will not take the name of items" in note and words in note for note in plan.notes)
    report = backfill(source, at.place(table="fresh"), up, job_dir=tmp_path / "job", limit=50, shard_rows=20)
    assert report.rows == 50
    assert at.run("SELECT count(*), max(vector_dims(embedding)) FROM fresh") == [(50, NEW_DIM)]
