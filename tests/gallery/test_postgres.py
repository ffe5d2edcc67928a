"""Reading from PostgreSQL: any key and column type arrives unchanged, a change of the table is noticed, and a table
that cannot be read as a gallery is refused with a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from gallery_support import OLD_DIM, SIDE_DIM, make_rows
from postgres_support import World, fill, new_rows, server, vectors, written

from fct_fast import errors
from fct_fast.gallery.stores import open_source
from fct_fast.gallery.stores.payload import first_difference
from fct_fast.gallery.stores.postgres import shards as shards_module
from fct_fast.gallery.stores.postgres import source as source_module
from fct_fast.gallery.stores.protocol import Shard
from fct_fast.space import SpaceFingerprint

COUNT = 60


@pytest.fixture
def at() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def read_in_parts(source: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [source.read(Shard(i, a, min(a + size, COUNT))) for i, a in enumerate(range(0, COUNT, size))]
    return np.concatenate([part.ids for part in parts]), np.concatenate([part.old for part in parts])


KEYS = {
    "smallint": lambda i: i - 30,
    "integer": lambda i: (i - 30) * 70_000_000,
    "bigint": lambda i: (i - 30) * 2**58,
    "uuid": lambda i: f"{(i * 37 % 251) << 120 | i:032x}",
    "text": lambda i: f"{'aBäz_'[i % 5]} '\"\\{i}, ☃\n",
    "varchar(40)": lambda i: "" if i == 7 else chr(40 + i) * (i % 9 + 1),
    'text COLLATE "C"': lambda i: f"{'aBz'[i % 3]}{i}",
}


@pytest.mark.parametrize("kind", KEYS)
def test_rows_of_any_key_type_come_in_the_order_of_its_index_in_any_cut(at: World, kind: str) -> None:
    rows = make_rows(COUNT)
    at.run(f"CREATE TABLE items (id {kind} PRIMARY KEY, embedding vector({OLD_DIM}))")
    keys = [KEYS[kind](i) for i in range(COUNT)]
    with at.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO items VALUES (%s, %s)", list(zip(keys, vectors(rows.old), strict=True)))
    expected = [str(key) for (key,) in at.run("SELECT id FROM items ORDER BY id")]
    place = {str(value): row for row, (value,) in enumerate(at.run("SELECT id FROM items ORDER BY id"))}
    old = np.empty_like(rows.old)
    for (key,), vector in zip(at.run("SELECT id FROM items ORDER BY ctid"), rows.old, strict=True):
        old[place[str(key)]] = vector
    source = open_source(at.place())
    for size in (1, 7, 59, COUNT):
        ids, found = read_in_parts(source, size)
        assert [str(value) for value in ids.tolist()] == expected
        assert np.array_equal(found, old)
    assert np.array_equal(source.all_ids(), ids)
    for known in (True, False):  # with the ids at hand, and without
        again = source if known else open_source(at.place())
        assert again.held_bytes == (ids.nbytes if known else 0)
        taken = again.take(np.array([59, 3, 3, 0, 31]))
        assert np.array_equal(taken.old, old[[59, 3, 3, 0, 31]])
        assert np.array_equal(taken.ids, ids[[59, 3, 3, 0, 31]])
        again.close()
    source.close()


def test_ids_come_from_a_named_unique_column_and_the_key_becomes_payload(at: World) -> None:
    fill(at.connection, "items", make_rows(COUNT))
    at.run("ALTER TABLE items ADD code text", "UPDATE items SET code = 'c' || (1000 - id)")
    at.run("ALTER TABLE items ALTER code SET NOT NULL", "CREATE UNIQUE INDEX ON items (code)")
    source = at.open(ids="#code")
    read = source.read(Shard(0, 0, COUNT))
    assert read.ids.dtype == np.dtype("<U5")
    assert sorted(read.ids.tolist()) == read.ids.tolist()
    assert read.payload.column_names == ["id", "title", "price", "seen"]
    assert [f"c{1000 - number}" for number in read.payload["id"].to_pylist()] == read.ids.tolist()
    assert source.places["ids"].endswith("#code")
    source.close()


def test_halfvec_and_untyped_vector_columns_are_read(at: World) -> None:
    rows = make_rows(COUNT, dtype="float16")
    fill(at.connection, "items", rows, kind="halfvec")
    at.run("ALTER TABLE items ALTER psi TYPE vector")
    source = at.open()
    order = np.argsort(rows.ids)
    read = source.read(Shard(0, 0, COUNT))
    assert (read.old.dtype, read.side.dtype) == (np.float16, np.float32)
    assert np.array_equal(read.old, rows.old[order])
    assert np.array_equal(read.side, rows.side[order].astype(np.float32))
    assert dict(source.dims) == {"old": OLD_DIM, "side": SIDE_DIM}
    source.close()
    at.run("UPDATE items SET psi = '[1,2]' WHERE id = 30")
    with pytest.raises(errors.ShapeError, match=r"vectors of 'psi' have 2 to 5 values"):
        at.open()


def test_the_rows_of_a_partitioned_table_are_one_gallery(at: World) -> None:
    rows = make_rows(COUNT)
    fill(at.connection, "plain", rows)
    at.run(
        "CREATE TABLE items (LIKE plain INCLUDING ALL) PARTITION BY RANGE (id)",
        "CREATE TABLE a PARTITION OF items FOR VALUES FROM (0) TO (60)",
        "CREATE TABLE b PARTITION OF items FOR VALUES FROM (60) TO (1000)",
        "INSERT INTO items SELECT * FROM plain",
    )
    source = at.open()
    assert np.array_equal(source.read(Shard(0, 0, COUNT)).ids, np.sort(rows.ids))
    before = source.identity()
    at.run("UPDATE items SET price = 1 WHERE id = 3")
    assert source.identity() != before
    source.close()


def test_a_sample_of_a_large_table_is_of_rows_spread_over_it_and_stays_the_same(at: World) -> None:
    at.run(
        "CREATE TABLE items (id integer PRIMARY KEY, embedding vector(2), psi vector(1))",
        "INSERT INTO items SELECT i, ARRAY[i, -i], ARRAY[i / 2] FROM generate_series(0, 59999) i",
    )
    source = at.open()
    sample = source.sample(1000)
    assert 500 <= len(sample.old) <= 2000
    assert np.array_equal(sample.old, np.stack([sample.ids, -sample.ids], axis=1))
    assert np.array_equal(sample.side[:, 0], sample.ids // 2)
    assert (np.histogram(sample.ids, 6, (0, 60000))[0] > 0).sum() > 3  # 136 rows a page: some seven pages
    assert np.array_equal(source.sample(1000).ids, sample.ids)
    assert np.array_equal(source.sample(10_000).ids, np.unique(np.linspace(0, 59999, 10_000).astype(int)))
    source.close()


@pytest.mark.parametrize("ids", ["", "#code"])
def test_a_shard_may_come_in_any_number_of_answers(at: World, monkeypatch: pytest.MonkeyPatch, ids: str) -> None:
    """The server sends some thousand rows at a time; here it sends a few."""
    fill(at.connection, "items", make_rows(COUNT))
    at.run("ALTER TABLE items ADD code text GENERATED ALWAYS AS ('c' || id) STORED NOT NULL UNIQUE")
    named = {"ids": ids} if ids else {}
    whole = at.open(**named)
    expected, keys = whole.read(Shard(0, 0, COUNT)), whole.all_ids()
    for size in (1, 700, 5000):
        for module in (source_module, shards_module):
            monkeypatch.setattr(module, "BATCH_BYTES", max(size, keys.itemsize))
        source = at.open(**named)
        read = source.read(Shard(0, 0, COUNT))
        assert np.array_equal(read.ids, expected.ids)
        assert np.array_equal(read.old, expected.old)
        assert np.array_equal(read.side, expected.side)
        assert first_difference(expected.payload, read.payload) is None
        assert np.array_equal(source.take(np.arange(COUNT)[::-3]).old, expected.old[::-3])
        assert np.array_equal(source.all_ids(), keys)
        sink = written(source, at.place(table=f"fresh{size}"), token=f"{size:08x}")
        assert sink.capabilities.cutover == (not ids)  # a twin cannot be given ids that the server computes
        loaded = [sink.load(Shard(i, a, min(a + 25, COUNT))) for i, a in enumerate(range(0, COUNT, 25))]
        assert np.array_equal(np.concatenate([part.new for part in loaded]), new_rows(COUNT))
        assert np.array_equal(np.concatenate([part.ids for part in loaded]), expected.ids)
        sink.close()
        source.close()
    whole.close()


# Changes


CHANGES = [
    "INSERT INTO items SELECT -1, embedding, psi FROM items LIMIT 1",
    "DELETE FROM items WHERE id = 30",
    "UPDATE items SET title = title WHERE id = 33",
    "UPDATE items SET embedding = (SELECT embedding FROM items WHERE id = 33) WHERE id = 36",
    "WITH gone AS (DELETE FROM items WHERE id = 39 RETURNING *) INSERT INTO items SELECT -id, embedding, psi FROM gone",
    "ALTER TABLE items ADD more integer",
    "ALTER TABLE items ALTER title TYPE varchar(40)",
    "TRUNCATE items",
]


def test_every_change_is_noticed_and_nothing_else_is(at: World) -> None:
    """Maintenance moves rows and freezes them; none of that is a change, nor is a lock or a change that was undone."""
    fill(at.connection, "items", make_rows(COUNT))
    source = at.open()
    before = source.identity()
    at.run("BEGIN", "UPDATE items SET price = 0", "DELETE FROM items WHERE id < 30", "ROLLBACK")
    at.run(
        "VACUUM (FREEZE, ANALYZE) items", "VACUUM FULL items", "CLUSTER items USING items_pkey", "REINDEX TABLE items"
    )
    at.run("SELECT * FROM items FOR UPDATE", "CREATE INDEX ON items (title)", "ALTER TABLE items SET (fillfactor = 50)")
    at.run("COMMENT ON COLUMN items.title IS 'of the item'")
    assert source.identity() == before
    seen = [before]
    for change in CHANGES:
        at.run(change)
        seen.append(source.identity())
        assert seen[-1] not in seen[:-1], change
    source.close()


def test_a_row_that_is_gone_or_empty_by_the_time_it_is_read_is_reported(at: World) -> None:
    fill(at.connection, "items", make_rows(COUNT))
    at.run("ALTER TABLE items ALTER embedding DROP NOT NULL")
    source = at.open()
    at.run("UPDATE items SET embedding = NULL WHERE id = 30")
    with pytest.raises(errors.StoreError, match=r"holds a NULL, or a vector of another width"):
        source.read(Shard(0, 0, COUNT))
    at.run("DELETE FROM items WHERE id = 30")
    with pytest.raises(errors.StoreError, match=r"fewer rows than it had"):
        source.read(Shard(0, 0, COUNT))
    at.run("DROP TABLE items")
    for look in (source.identity, lambda: source.read(Shard(0, 0, COUNT)), lambda: source.take(np.array([1]))):
        with pytest.raises(errors.StoreError):
            look()
    source.close()


def test_the_comment_of_a_column_carries_its_space(at: World) -> None:
    rows = make_rows(COUNT)
    fill(at.connection, "items", rows)
    space = SpaceFingerprint.measure(rows.old, model_id="old-1")
    text = psycopg.sql.Literal
    for comment, found in (
        ("just words", {}),
        ("words\nfct_fast space: " + json.dumps(space.to_json()), {"old": space}),
    ):
        at.connection.execute(psycopg.sql.SQL("COMMENT ON COLUMN items.embedding IS {}").format(text(comment)))
        source = at.open()
        assert source.spaces == found
        source.close()
    at.run("COMMENT ON COLUMN items.embedding IS 'fct_fast space: {}'")
    with pytest.raises(errors.CorruptError, match=r"no space fingerprint that can be read"):
        at.open()
    other = SpaceFingerprint.measure(rows.side)
    comment = "fct_fast space: " + json.dumps(other.to_json())
    at.connection.execute(psycopg.sql.SQL("COMMENT ON COLUMN items.embedding IS {}").format(text(comment)))
    with pytest.raises(errors.SpaceError, match=rf"rows of {SIDE_DIM} values, but they have {OLD_DIM}"):
        at.open()


def test_the_table_is_found_by_its_number_when_it_has_another_name(at: World) -> None:
    """After a cutover, the place in a job's plan still means the table that the job read."""
    fill(at.connection, "items", make_rows(COUNT))
    source = at.open()
    at.run("ALTER TABLE items RENAME TO before", "CREATE TABLE items (LIKE before)")
    again = open_source(dict(source.places))
    assert again.identity() == source.identity()
    assert again.read(Shard(0, 0, COUNT)).payload is not None
    for found in (source, again):
        found.close()


# Refusals


REFUSED = [
    ("nothing", "#embedding", errors.StoreError, "there is no such table"),
    ("a view", "#embedding", errors.StoreError, "is no table, so changes"),
    ("items", "#nothing", errors.ConfigError, "no column 'nothing'; the table has id, embedding, psi"),
    ("items", "#title", errors.DtypeError, "is of the type text; vectors are read from"),
    ("items", "", errors.ConfigError, r"names no column of vectors.*\(embedding, psi\)"),
    ("no key", "#embedding", errors.ConfigError, "has no primary key; name a column"),
    ("two keys", "#embedding", errors.ConfigError, "primary key of 2 columns"),
    ("dates", "#embedding", errors.DtypeError, "ids are read from a column of .* but 'id' is of date"),
    ("empty", "#embedding", errors.StoreError, "has no rows"),
    ("parents", "#embedding", errors.StoreError, "has child tables"),
    ("gaps", "#embedding", errors.StoreError, "'embedding' is NULL in 2 rows, the first has the id 30"),
    ("a.b.c", "#embedding", errors.ConfigError, "names no table"),
    ("", "#embedding", errors.ConfigError, "names no table"),
]


def test_what_is_no_gallery_is_refused_with_a_sentence(at: World) -> None:
    fill(at.connection, "items", make_rows(COUNT))
    at.run(
        'CREATE VIEW "a view" AS SELECT * FROM items',
        'CREATE TABLE "no key" AS SELECT * FROM items',
        'CREATE TABLE "two keys" (LIKE items, PRIMARY KEY (id, title))',
        "CREATE TABLE dates (id date PRIMARY KEY, embedding vector(2))",
        "CREATE TABLE empty (LIKE items INCLUDING ALL)",
        "CREATE TABLE parents (LIKE items INCLUDING ALL)",
        "CREATE TABLE child () INHERITS (parents)",
        "CREATE TABLE gaps (id int PRIMARY KEY, embedding vector(16))",
        "INSERT INTO gaps SELECT id, CASE WHEN id NOT IN (30, 33) THEN embedding END FROM items",
    )
    for table, column, error, words in REFUSED:
        quoted = f'"{table}"' if " " in table else table
        with pytest.raises(error, match=words) as raised:
            open_source(server().place(quoted, column[1:], at.database))
        assert "\n" not in str(raised.value)


def test_ids_that_could_mix_up_rows_are_refused(at: World) -> None:
    fill(at.connection, "items", make_rows(COUNT))
    at.run("ALTER TABLE items ADD code integer", "UPDATE items SET code = id")
    with pytest.raises(errors.StoreError, match=r"'code' may be NULL"):
        at.open(ids="#code")
    at.run("ALTER TABLE items ALTER code SET NOT NULL")
    for index in (
        "",
        "CREATE INDEX ON items (code)",
        "CREATE UNIQUE INDEX ON items (code) WHERE code > 5",
        "CREATE UNIQUE INDEX ON items (code, title)",
        "CREATE UNIQUE INDEX ON items ((code + 1))",
    ):
        at.run(index or "SELECT 1")
        with pytest.raises(errors.StoreError, match=r"'code' has no unique index"):
            at.open(ids="#code")
    with pytest.raises(errors.ConfigError, match=r"no column 'nothing' to take ids from"):
        at.open(ids="#nothing")
    with pytest.raises(errors.ConfigError, match=r"is another table than"):
        at.open(ids=at.place("id", table="others"))


def test_a_place_with_a_password_or_an_unknown_option_is_refused() -> None:
    for more, words in (("password=secret", "comes with a password"), ("tabel=items", "invalid connection option")):
        with pytest.raises(errors.ConfigError, match=words) as raised:
            open_source(f"postgresql://postgres@/postgres?table=items&{more}#embedding")
        assert "secret" not in str(raised.value)


def test_rights_and_passwords_that_are_missing_are_named(at: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(at.connection, "items", make_rows(COUNT))
    at.run("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN")
    place = server().place("items", "embedding", at.database, user="reader")
    with pytest.raises(errors.StoreError, match=r"permission denied for table items; have the owner grant"):
        open_source(place)
    at.run("GRANT SELECT ON items TO reader", "ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    with pytest.raises(errors.StoreError, match=r"row-level security"):
        open_source(place)  # rather than a gallery that lacks the rows which a policy hides
    at.run("ALTER TABLE items DISABLE ROW LEVEL SECURITY")
    open_source(place).close()
    for database, words in (("nothing", 'database "nothing" does not exist'),):
        with pytest.raises(errors.StoreError, match=words):
            open_source(server().place("items", "embedding", database))
    with pytest.raises(errors.StoreError, match=r"cannot be reached: .*; check that the server runs"):
        open_source("postgresql://postgres@127.0.0.1:1/postgres?table=items#embedding")
