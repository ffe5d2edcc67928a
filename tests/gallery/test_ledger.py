"""The ledger gives back what was committed, or CorruptError: a lost row or a lost page never passes. (Each flipped bit:
`proof/test_bit_flips.py`.)"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fct_fast.errors import CorruptError, FctError, StoreError
from fct_fast.fs import DISK
from fct_fast.gallery.job.ledger import Ledger, Record

BLOCK = 5  # rows in a sealed block, so that a small ledger has some of each kind
PLAN = {"plan": {"rows": 10, "sink": "somewhere"}, "token": "12ab"}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fct_fast.gallery.job.ledger.BLOCK_ROWS", BLOCK)


def make(path: Path, shards: int = 12) -> Ledger:
    ledger = Ledger.create(path, PLAN, DISK)
    for index in range(shards):
        ledger.commit(record(index))
    return ledger


def record(index: int) -> Record:
    rng = np.random.default_rng(index)
    flagged = np.flatnonzero(rng.random(1000) < (0.1 if index % 3 == 0 else 0))
    return Record(index, rng.bytes(32), flagged)


def content(ledger: Ledger) -> Any:
    records = [ledger.record(index) for index in sorted(ledger.done)]
    return ledger.plan, ledger.state, [(r.shard, r.digest, r.flagged.tolist(), r.time) for r in records]


def test_what_is_committed_is_read_back_by_another_process(tmp_path: Path) -> None:
    ledger = make(tmp_path / "ledger")
    ledger.note(published=True, verification={"passed": True}, live={"pointer": "x", "previous": {}})
    again = Ledger.open(tmp_path / "ledger")
    assert content(again) == content(ledger)
    assert again.state.shards == 12
    assert again.state.flagged == sum(len(record(index).flagged) for index in range(12))
    assert again.record(3).flagged.tolist() == record(3).flagged.tolist()
    assert again.record(5).digest == record(5).digest
    assert sorted(again.done) == list(range(12))
    again.close()
    ledger.close()


def test_commits_are_flushed(tmp_path: Path) -> None:
    ledger = make(tmp_path / "ledger", 0)
    assert ledger.connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert ledger.connection.execute("PRAGMA journal_mode").fetchone() == ("truncate",)
    ledger.close()


def test_a_shard_is_committed_once(tmp_path: Path) -> None:
    ledger = make(tmp_path / "ledger", 3)
    before = content(ledger)
    with pytest.raises(CorruptError, match="shard 1 is committed already"):
        ledger.commit(record(1))
    assert content(ledger) == before
    ledger.close()
    again = Ledger.open(tmp_path / "ledger")
    assert content(again) == before
    again.close()


def test_a_changed_or_lost_row_is_reported(tmp_path: Path) -> None:
    changes = [
        "DELETE FROM shard WHERE seq = 11",
        "DELETE FROM shard WHERE seq = 10",
        "DELETE FROM block WHERE number = 0",
        "DELETE FROM block WHERE number = 1",
        "DELETE FROM block",
        "UPDATE block SET number = 7 WHERE number = 1",
        "UPDATE block SET rows = flagged WHERE number = 0",
        "UPDATE block SET flagged = x'' WHERE number = 0",
        "UPDATE block SET chain = x'00' WHERE number = 1",
        "UPDATE shard SET time = 0 WHERE seq = 10",
        "DROP TABLE block",
        "DELETE FROM shard",
        "DELETE FROM job",
        "UPDATE shard SET shard = 77 WHERE seq = 10",
        "UPDATE shard SET digest = flagged WHERE seq = 10",
        "UPDATE shard SET flagged = x'00' WHERE seq = 10",
        "UPDATE shard SET seq = 99 WHERE seq = 11",
        "UPDATE job SET plan = replace(plan, '10', '11')",
        "UPDATE job SET state = replace(state, 'false', 'true')",
        "DROP TABLE shard",
        "DROP TABLE job",
    ]
    for number, change in enumerate(changes):
        path = tmp_path / str(number)
        make(path).close()
        connection = sqlite3.connect(path)
        with connection:
            connection.execute(change)
        connection.close()
        with pytest.raises(CorruptError, match=r"the ledger .* is damaged .*start anew"):
            Ledger.open(path)


def test_files_that_are_no_ledger(tmp_path: Path) -> None:
    for number, data in enumerate([b"", b"hello", b"SQLite format 3\0" + bytes(4000)]):
        path = tmp_path / str(number)
        path.write_bytes(data)
        with pytest.raises(CorruptError):
            Ledger.open(path)
    with pytest.raises(StoreError, match="cannot read the ledger"):
        Ledger.open(tmp_path / "missing")
    make(tmp_path / "cut").close()
    data = (tmp_path / "cut").read_bytes()
    for size in range(1, len(data), 997):
        (tmp_path / "cut").write_bytes(data[:size])
        with pytest.raises(FctError):
            Ledger.open(tmp_path / "cut")


def test_creating_is_all_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "ledger.new").write_bytes(b"half of an earlier start")
    (tmp_path / "ledger.new-journal").write_bytes(b"of a crash")
    ledger = make(tmp_path / "ledger", 1)
    ledger.close()
    assert [p.name for p in tmp_path.iterdir() if "new" in p.name] == []


def test_a_reader_does_not_disturb_a_writer(tmp_path: Path) -> None:
    ledger = make(tmp_path / "ledger", 2)
    reader = Ledger.open(tmp_path / "ledger")
    ledger.commit(record(2))
    assert reader.state.shards == 2
    reader.close()
    ledger.commit(record(3))
    ledger.close()


def test_rows_are_sealed_into_blocks_and_read_the_same(tmp_path: Path) -> None:
    """At every count around the edges of blocks; also by a reader that opened the ledger before."""
    ledger = make(tmp_path / "ledger", 0)
    times = [0.0]
    for count in range(1, 3 * BLOCK + 2):
        early = Ledger.open(tmp_path / "ledger")
        ledger.commit(record(count - 1))
        again = Ledger.open(tmp_path / "ledger")
        assert content(again) == content(ledger)
        assert [r.shard for r in again.records()] == list(range(count))
        assert [r.shard for r in early.records()] == list(range(count - 1))
        loose = again.connection.execute("SELECT count(*) FROM shard").fetchone()[0]
        blocks = again.connection.execute("SELECT count(*) FROM block").fetchone()[0]
        assert (blocks, loose) == divmod(count, BLOCK)
        times.append(again.record(count - 1).time)
        early.close()
        again.close()
    assert times == sorted(times)
    ledger.close()
