"""Payload in PostgreSQL: columns of every type arrive unchanged, from a table of the same or another database and from
Arrow; what cannot be held is refused with a sentence, before anything is made or at the value."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from gallery_support import NEW_DIM, OLD_DIM, SIDE_DIM
from postgres_support import TOKEN, World, new_rows, server, written

from fct_fast import errors
from fct_fast.gallery.stores import open_sink, open_source
from fct_fast.gallery.stores.payload import first_difference
from fct_fast.gallery.stores.protocol import Layout, Shard

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
    sink: Any = open_sink(at.place(column=""), layout, TOKEN)
    sink.begin()
    new, seen = new_rows(COUNT), {}
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
    (pa.array([-(2**63)], pa.timestamp("us")), "a time too long ago"),
    (pa.array([-(2**62)], pa.timestamp("us")), "timestamp out of range"),
]


@pytest.mark.parametrize(("column", "words"), BAD_PAYLOAD)
def test_a_value_that_postgres_cannot_hold_ends_the_job_with_a_sentence(
    at: World, column: pa.Array, words: str
) -> None:
    payload = pa.table({"c": column})
    layout = Layout(1, 2, np.dtype("<f4"), np.dtype("<i8"), 1, payload.schema.serialize().to_pybytes())
    sink = open_sink(at.place(), layout, TOKEN)
    sink.begin()
    with pytest.raises(errors.StoreError, match=words) as raised:
        sink.write(layout.shard(0), np.ones((1, 2), np.float32), np.array([1]), payload)
    assert "\n" not in str(raised.value)
    assert sink.fault([0]) is not None
    sink.close()


def test_what_no_table_can_hold_is_refused_before_anything_is_made(at: World) -> None:
    def sink(schema: pa.Schema | None = None, ids: str | None = "<i8", dim: int = 2, place: str = at.place()) -> Any:
        payload = b"" if schema is None else schema.serialize().to_pybytes()
        opened = open_sink(place, Layout(1, dim, np.dtype("<f4"), np.dtype(ids) if ids else None, 1, payload), TOKEN)
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
    sink = open_sink(at.place(), layout, TOKEN)
    sink.begin()
    for ids, words in (([1, 2**63], "cannot keep the id 9223372036854775808"), ([7, 7], "ids must be unique")):
        with pytest.raises(errors.StoreError, match=words):
            sink.write(layout.shard(0), np.ones((2, 2), np.float32), np.array(ids, np.uint64), None)
    sink.close()
