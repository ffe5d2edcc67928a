"""The server dies in the middle of a job: the job ends with a sentence, and the same command goes on where it was once
the server is back, to the same rows as an undisturbed run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gallery_support import make_rows, small_bundle
from postgres_support import World, fill, server

from fct_fast import errors
from fct_fast.gallery import Job, backfill
from fct_fast.upgrader import Upgrader

COUNT = 1500


@pytest.fixture
def at() -> Iterator[World]:
    world = World()
    fill(world.connection, "items", make_rows(COUNT))
    world.run("CREATE INDEX near ON items USING hnsw (embedding vector_l2_ops) WITH (m = 4, ef_construction = 8)")
    yield world
    world.close()


class Work:
    def __init__(self, at: World, folder: Path) -> None:
        self.at, self.folder = at, folder
        self.up = Upgrader(small_bundle(make_rows(COUNT)), threads=1)

    def run(self, table: str = "items_v2", job: str = "job", **options: Any) -> Any:
        source = {"old": self.at.place(), "side": "#psi"}
        place = self.at.place(table=table)
        return backfill(source, place, self.up, job_dir=self.folder / job, shard_rows=50, **options)

    def rows(self, table: str) -> Any:
        with server().connect(self.at.database) as connection:
            return connection.execute(
                f"SELECT id, embedding::text, psi::text, title, price::text, seen FROM {table} ORDER BY id"
            ).fetchall()  # type: ignore[arg-type]


def restart(at: World) -> None:
    server().start()
    at.connection = server().connect(at.database)


@pytest.mark.parametrize(("how", "moments"), [("kill", (0, 5, 13, 29)), ("stop", (17,))])
def test_a_server_killed_in_the_middle_of_a_job(at: World, tmp_path: Path, how: str, moments: tuple[int, ...]) -> None:
    """At moments spread over the job; SIGKILL to all of its processes, or an immediate shutdown."""
    work = Work(at, tmp_path)
    source = at.dump("--table", "items")
    work.run("undisturbed", "other")
    expected, said = work.rows("undisturbed"), list[str]()
    for moment in moments:
        reached = threading.Event()

        def end(at_shard: int = moment, reached: threading.Event = reached) -> None:
            reached.wait(20)
            time.sleep(0.003 * (at_shard % 7))
            getattr(server(), how)()

        thread = threading.Thread(target=end)
        thread.start()
        if moment == 0:
            reached.set()
        try:
            work.run(progress=lambda p, m=moment, r=reached: r.set() if p.shards >= m else None)
        except errors.StoreError as error:
            said.append(str(error))
        finally:
            reached.set()
            thread.join()
            restart(at)
    work.run()
    assert len(said) == len(moments)
    assert all("\n" not in text and "run the same command again" in text for text in said), said
    assert work.rows("items_v2") == expected
    job = Job.open(tmp_path / "job")
    assert job.status().phase == "complete"
    assert job.verify().passed
    assert at.dump("--table", "items") == source
    job.cutover()
    assert work.rows("items") == expected


def test_an_error_of_the_server_in_the_middle_ends_the_job_and_the_next_run_goes_on(at: World, tmp_path: Path) -> None:
    """A full disk and the like, raised by the server itself for the rows from some id on."""
    at.run(
        "CREATE TABLE trouble (code text)",
        """CREATE FUNCTION fits(bigint) RETURNS bool LANGUAGE plpgsql AS $$
        DECLARE found text := (SELECT max(code) FROM trouble);
        BEGIN
            IF found IS NOT NULL AND $1 > 2000 THEN RAISE EXCEPTION 'in trouble' USING ERRCODE = found; END IF;
            RETURN true;
        END $$""",
        "ALTER TABLE items ADD CHECK (fits(id))",
    )
    work = Work(at, tmp_path)
    for code, words in (
        ("53100", "in trouble; free some space on the server and run the same command again"),
        ("53200", "in trouble; run the same command again once that is mended"),
        ("57014", "in trouble; run the same command again"),
        ("XX001", "in trouble; the server reports a fault of its own"),
    ):
        at.run("TRUNCATE trouble", f"INSERT INTO trouble VALUES ('{code}')")
        with pytest.raises(errors.StoreError, match=words):
            work.run()
        assert at.run("SELECT to_regclass('items_v2')") == [(None,)]
    stopped = Job.open(tmp_path / "job").status()
    assert stopped.phase == "stopped"
    assert stopped.shards > 5
    at.run("TRUNCATE trouble")
    assert work.run().resumed == stopped.rows
    assert Job.open(tmp_path / "job").verify().passed


def test_no_server_and_a_wrong_password_are_told_apart(at: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from fct_fast.gallery.stores import open_source

    at.run(
        "DROP ROLE IF EXISTS secretive",
        "CREATE ROLE secretive LOGIN PASSWORD 'right'",
        "GRANT SELECT ON items TO secretive",
    )
    rules = server().folder / "data" / "pg_hba.conf"
    before = rules.read_text()
    place = server().place("items", "embedding", at.database, user="secretive")
    try:
        rules.write_text("local all secretive scram-sha-256\n" + before)
        server().reload()
        with pytest.raises(errors.StoreError, match=r"no password supplied; set the password where"):
            open_source(place)
        monkeypatch.setenv("PGPASSWORD", "wrong")
        with pytest.raises(
            errors.StoreError, match=r"password authentication failed.*PGPASSWORD or ~/.pgpass"
        ) as raised:
            open_source(place)
        assert "wrong" not in str(raised.value)
        monkeypatch.setenv("PGPASSWORD", "right")
        open_source(place).close()
    finally:
        rules.write_text(before)
        server().reload()
