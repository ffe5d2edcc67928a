"""Cutover and rollback in PostgreSQL: one transaction each, seen by readers as a whole, found again after a crash, and
refused with nothing changed where it would lose something."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from gallery_support import NEW_DIM, OLD_DIM, make_rows, small_bundle
from postgres_support import TOKEN, Interruption, World, fill, layout_of, new_rows, server

from fct_fast import errors
from fct_fast.gallery import Job, plan_backfill
from fct_fast.gallery.stores import open_sink, open_source
from fct_fast.gallery.stores.postgres import cutover
from fct_fast.upgrader import Upgrader

COUNT = 60


@pytest.fixture
def at() -> Iterator[World]:
    world = World()
    fill(world.connection, "items", make_rows(COUNT))
    yield world
    world.close()


class Ready:
    """A published twin of items, ready to take its place."""

    def __init__(
        self,
        at: World,
        table: str = "items_v2",
        source: str = "items",
        dim: int = NEW_DIM,
        token: str = TOKEN,
        **options: str,
    ) -> None:
        self.at, self.place = at, at.place(table=table, **options)
        self.source = open_source({"old": at.place(table=source), "side": "#psi"})
        source = self.source
        self.layout, self.token = layout_of(self.source, dim=dim), token
        self.new = new_rows(COUNT, dim)

    def sink(self) -> Any:
        return open_sink(self.place, self.layout, self.token)

    def written(self) -> Any:
        sink = self.sink()
        sink.begin()
        for shard in map(self.layout.shard, range(self.layout.shards)):
            rows = self.source.read(shard)
            sink.write(shard, self.new[shard.start : shard.stop], rows.ids, rows.payload)
        return sink

    def published(self) -> Any:
        sink = self.written()
        sink.publish(None)
        return sink


def width(at: World, table: str = "items") -> int:
    return int(at.run(f"SELECT max(vector_dims(embedding)) FROM {table}")[0][0])


def tables(at: World) -> list[str]:
    return [
        name
        for (name,) in at.run(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
        )
    ]


def test_readers_see_the_old_rows_or_the_new_ones_and_never_an_error(at: World) -> None:
    """While the tables trade names back and forth."""
    sink = Ready(at).published()
    seen: set[tuple[int, int, int]] = set()
    faults: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        with server().connect(at.database) as connection:
            connection.prepare_threshold = None
            while not done.is_set():
                try:
                    found = connection.execute(
                        "SELECT count(*), min(vector_dims(embedding)), max(vector_dims(embedding)) FROM items"
                    ).fetchone()
                    seen.add(found)  # type: ignore[arg-type]
                except psycopg.Error as error:
                    faults.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(5):
            sink.cut_over()
            sink.cut_over()
            sink.roll_back()
            sink.roll_back()
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert faults == []
    assert seen == {(COUNT, OLD_DIM, OLD_DIM), (COUNT, NEW_DIM, NEW_DIM)}
    sink.close()


def test_names_say_what_is_live_to_any_later_process(at: World) -> None:
    """So a crash right after the commit, before the job could note it, leaves no doubt."""
    ready = Ready(at)
    ready.published().close()
    for live in (True, False, True):
        sink = ready.sink()
        sink.cut_over() if live else sink.roll_back()
        sink.close()
        again = ready.sink()
        assert again.live == live
        assert again.published
        assert all(again.load(shard).ids is not None for shard in map(ready.layout.shard, range(3)))
        assert again.fault([0, 1, 2]) is None
        again.close()
        assert width(at) == (NEW_DIM if live else OLD_DIM)
        expected = "items__before_0a1b2c3d" if live else "items_v2"
        assert tables(at) == sorted(["items", expected, "items_v2__shards_0a1b2c3d"])


def test_the_next_upgrade_starts_from_the_live_table(at: World) -> None:
    """Two cutovers after each other, rolled back in turn."""
    first = Ready(at).published()
    first.cut_over()
    second = Ready(at, "items_v3", dim=7, token="99999999").published()
    second.cut_over()
    assert width(at) == 7
    assert not first.live
    with pytest.raises(errors.StoreError, match="is not the table that this job read"):
        first.cut_over()
    second.roll_back()
    assert width(at) == NEW_DIM
    first.roll_back()
    assert width(at) == OLD_DIM


# Statement, why it forbids a swap, and whether a new table is then written all the same, beside.
BOUND = [
    ("CREATE VIEW shown AS SELECT title FROM {}", "of rule _RETURN on view shown", False),
    ("CREATE MATERIALIZED VIEW kept AS SELECT * FROM {}", "of rule _RETURN on materialized view kept", False),
    ("CREATE TABLE orders (item bigint REFERENCES {})", "of constraint orders_item_fkey on table orders", False),
    ("ALTER TABLE {0} ADD parent bigint REFERENCES {0}", "of constraint {}_parent_fkey on table {}", True),
    (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
        "CREATE TRIGGER t BEFORE UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION f()",
        "of trigger t on table {}",
        False,
    ),
    ("CREATE POLICY p ON {} USING (price > 0)", "of policy p on table {}", False),
    ("ALTER TABLE {} ENABLE ROW LEVEL SECURITY", "it has row-level security", False),
    ("CREATE RULE r AS ON DELETE TO {} DO NOTHING", "of rule r on table {}", False),
    ("CREATE PUBLICATION pub FOR TABLE {}", "of publication of table {} in publication pub", False),
    ("CREATE FUNCTION cheap({}) RETURNS bool LANGUAGE sql AS 'SELECT $1.price < 1'", r"of function cheap\({}\)", False),
    ("CREATE FUNCTION g() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM {}; END", r"of function g\(\)", False),
    ("CREATE TABLE boxes (content {})", "of (column content of )?table boxes", False),
    ("CREATE TABLE stock (LIKE {0}); ALTER TABLE {0} INHERIT stock", "it is a part of stock", False),
    (
        "ALTER TABLE {} ADD n float GENERATED ALWAYS AS (vector_norm(embedding)) STORED",
        "its column n is generated from the old vectors",
        True,
    ),
    (
        "ALTER TABLE {0} RENAME TO a; CREATE TABLE {0} (LIKE a INCLUDING ALL) PARTITION BY RANGE (id); "
        "CREATE TABLE b PARTITION OF {0} DEFAULT; INSERT INTO {0} SELECT * FROM a",
        "it is partitioned",
        True,
    ),
]


def test_what_hangs_on_the_table_itself_forbids_the_swap_from_the_start(at: World) -> None:
    """Before anything is written; a sink that leaves the swap out may go on."""
    for number, (statement, words, beside) in enumerate(BOUND):
        name = f"items{number}"
        at.run(f"CREATE TABLE {name} (LIKE items INCLUDING ALL)", f"INSERT INTO {name} SELECT * FROM items")
        at.run(statement.format(name))
        ready, before = Ready(at, f"new{number}", source=name), tables(at)
        for step in ("refuse_existing", "begin"):
            sink = ready.sink()
            reason = rf"{name} cannot be replaced by renaming, because ({words.format(name, name)}).*swap=no"
            with pytest.raises(errors.StoreError, match=reason):
                getattr(sink, step)()
            sink.close()
        assert tables(at) == before
        ready.source.close()
        ready = Ready(at, f"new{number}", source=name, swap="no")
        sink = ready.sink()
        sink.refuse_existing()
        assert not sink.capabilities.cutover
        if beside:
            sink = ready.published()
            assert np.array_equal(sink.load(ready.layout.shard(2)).new, ready.new[50:])
        sink.close()
        ready.source.close()


def test_a_swap_needs_the_owner_the_schema_and_the_column(at: World) -> None:
    at.run(
        "CREATE SCHEMA other", "DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN", "GRANT SELECT ON items TO guest"
    )
    guest = server().place("items_v2", "embedding", at.database, user="guest")
    for place, words in (
        (at.place(table="other.items_v2"), "in the schema public and not other"),
        (at.place(column="vec", table="items_v2"), "no column 'vec' of vectors"),
        (guest, "may not create tables in the schema public"),
    ):
        sink = open_sink(place, Ready(at).layout, TOKEN)
        with pytest.raises(errors.StoreError, match=words):
            sink.refuse_existing()
        sink.close()
    at.run("GRANT CREATE ON SCHEMA public TO guest")
    sink = open_sink(guest, Ready(at).layout, TOKEN)
    with pytest.raises(errors.StoreError, match="only its owner postgres may rename it"):
        sink.refuse_existing()
    sink.close()
    ready = Ready(at)  # a guest may still write a table of its own beside
    ready.place = server().place("items_v2", "embedding", at.database, user="guest", swap="no")
    ready.published().close()
    assert at.run("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'items_v2'") == [("guest",)]


def unchanged(at: World, sink: Any, words: str) -> None:
    """The cutover is refused, and nothing is another one than before."""
    before, names = at.dump(), tables(at)
    with pytest.raises(errors.StoreError, match=words) as raised:
        sink.cut_over()
    assert "\n" not in str(raised.value)
    assert not sink.live
    assert tables(at) == names
    assert at.dump() == before


def test_a_change_since_the_job_read_the_source_refuses_the_cutover(at: World) -> None:
    ready = Ready(at)
    sink = ready.published()
    at.run("INSERT INTO items SELECT -1, embedding, psi FROM items LIMIT 1")
    unchanged(at, sink, "was changed since the job read it")
    sink.close()


def test_a_change_of_the_new_table_since_it_was_verified_refuses_the_cutover(at: World) -> None:
    sink = Ready(at).published()
    sink.state()
    at.run("UPDATE items_v2 SET title = 'x' WHERE id = 30")
    unchanged(at, sink, "was changed since it was verified")
    sink.close()


def test_what_was_added_to_the_source_meanwhile_is_not_lost_in_a_cutover(at: World) -> None:
    sink = Ready(at).published()
    at.run("CREATE INDEX late ON items (price)")
    unchanged(at, sink, "items has late, which the new table lacks")
    at.run("DROP INDEX late", "CREATE VIEW shown AS SELECT title FROM items")
    unchanged(at, sink, "because of rule _RETURN on view shown")
    at.run("DROP VIEW shown", "REVOKE ALL ON items FROM PUBLIC", "GRANT INSERT ON items TO PUBLIC")
    sink.cut_over()
    assert at.run("SELECT relacl::text LIKE '%,=a/%' FROM pg_class WHERE relname = 'items'") == [(True,)]
    sink.close()


def test_a_table_in_use_is_not_waited_for_forever(at: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that keeps its transaction open, or a writer, makes the cutover give up; then it can be done again."""
    monkeypatch.setattr(cutover, "LOCK_SECONDS", 0.2)
    sink = Ready(at).published()
    for statement in ("SELECT count(*) FROM items", "UPDATE items_v2 SET title = title WHERE false"):
        with server().connect(at.database) as holder:
            holder.execute("BEGIN")
            holder.execute(statement)  # type: ignore[call-overload]
            unchanged_names = tables(at)
            with pytest.raises(errors.StoreError, match=r"lock timeout; other sessions use the table"):
                sink.cut_over()
            assert tables(at) == unchanged_names
            assert width(at) == OLD_DIM
            holder.execute("ROLLBACK")
    sink.cut_over()
    assert sink.live
    sink.close()


def test_what_was_bound_to_the_new_table_while_it_was_live_is_told_at_a_rollback(at: World) -> None:
    """A view, say, goes on with the table that it was made on, which has another name from then on."""
    sink = Ready(at).published()
    sink.cut_over()
    at.run("CREATE VIEW shown AS SELECT embedding FROM items")
    with pytest.warns(UserWarning, match="because of rule _RETURN on view shown, that goes on with items_v2"):
        sink.roll_back()
    assert width(at) == OLD_DIM
    assert width(at, "shown") == NEW_DIM
    sink.close()


def test_names_that_were_taken_meanwhile_are_never_replaced(at: World) -> None:
    ready = Ready(at)
    sink = ready.published()
    at.run("CREATE TABLE items__before_0a1b2c3d (mine integer)")
    unchanged(at, sink, "items__before_0a1b2c3d is taken")
    at.run("DROP TABLE items__before_0a1b2c3d")
    sink.cut_over()
    at.run("CREATE TABLE items_v2 (mine integer)")
    before = tables(at)
    with pytest.raises(errors.StoreError, match="items_v2 is taken"):
        sink.roll_back()
    assert sink.live
    assert tables(at) == before
    at.run("DROP TABLE items_v2", "DROP TABLE items__before_0a1b2c3d")
    with pytest.raises(errors.StoreError, match="was dropped"):
        sink.roll_back()
    assert sink.live
    sink.close()


def test_the_longest_names_still_tell_tables_apart(at: World) -> None:
    name = "ä" * 31  # 62 of the 63 bytes of an identifier
    at.run(f'ALTER TABLE items RENAME TO "{name}"', f'ALTER INDEX items_pkey RENAME TO "{"ö" * 31}"')
    ready = Ready(at, name[:-1] + "z", source=name)
    sink = ready.published()
    before = at.dump()
    sink.cut_over()
    assert width(at, f'"{name}"') == NEW_DIM
    assert at.run(f"SELECT count(*) FROM pg_indexes WHERE tablename = '{name}' AND indexname = '{'ö' * 31}'") == [(1,)]
    sink.roll_back()
    assert at.dump() == before
    sink.close()


def test_a_job_goes_live_in_one_transaction_and_its_status_tells(at: World, tmp_path: Path) -> None:
    up = Upgrader(small_bundle(make_rows(COUNT)), threads=1)
    plan_backfill({"old": at.place(), "side": "#psi"}, at.place(table="items_v2"), up, job_dir=tmp_path / "job").run()
    job = Job.open(tmp_path / "job")
    assert job.verify().passed
    with pytest.raises(errors.ConfigError, match="made live by its store"):
        job.cutover(tmp_path / "live.json")
    assert job.cutover()["space"]["model_id"] == "new-1"
    assert job.status().phase == "live"
    assert width(at) == NEW_DIM
    assert len(job.samples()) == 1  # the rows that were read are found under their new name
    job.rollback()
    assert width(at) == OLD_DIM
    assert job.status().phase == "verified"


def test_a_crash_at_any_statement_leaves_a_cutover_and_a_publication_done_or_undone(at: World) -> None:
    """The server ends the session before the n-th statement that changes something, for every n; on the way to the
    published table, to the live one, and back."""
    ready, interruption = Ready(at), Interruption(at)
    at.run("CREATE INDEX near ON items USING hnsw (embedding vector_l2_ops)")
    sink = ready.written()
    sink.close()
    for step, after in (("publish", "published"), ("cut_over", "live"), ("roll_back", "standby")):
        for number in range(1, 100):
            sink, ended = ready.sink(), False
            with interruption.at(number), contextlib.suppress(errors.StoreError):
                sink.publish(None) if step == "publish" else getattr(sink, step)()
                ended = True
            sink.close()
            again = ready.sink()
            state = "live" if again.live else "partial" if not again.published else step_done(step)
            assert (state == after) == ended
            assert width(at) == (NEW_DIM if again.live else OLD_DIM)
            again.close()
            if interruption.left > 0:
                assert ended
                assert number > 3
                break
    assert dict(at.run("SELECT tablename, count(*) FROM pg_indexes GROUP BY 1"))["items_v2"] == 2


def step_done(step: str) -> str:
    return {"publish": "published", "cut_over": "published", "roll_back": "standby"}[step]
