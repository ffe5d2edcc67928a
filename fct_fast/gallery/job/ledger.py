"""The ledger: the durable record of a job, one SQLite file.

A shard is done when its row is committed here, and not before. Since SQLite does not notice a flipped bit in a row, or
a page that lost one, each row carries a digest that also covers the row committed before it, and the job's state
records how many rows there are and the last digest: what is read is what was written, or CorruptError. Full runs of
rows are sealed into one block under one digest, so that a job of a million shards opens in a moment.

`synchronous=FULL` with a rollback journal that is truncated at commit: each commit is flushed before it counts. (WAL
would be faster, but needs a shared-memory file that a full disk turns into SIGBUS.)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import CorruptError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.space import canonical_json

__all__ = ["BLOCK_ROWS", "Ledger", "Record", "State"]

BLOCK_ROWS = 4096
"""Rows that are sealed into one block."""

_SCHEMA = """
CREATE TABLE job (
    id INTEGER PRIMARY KEY CHECK (id = 1), plan TEXT NOT NULL, state TEXT NOT NULL, sha256 BLOB NOT NULL
);
CREATE TABLE shard (
    seq INTEGER PRIMARY KEY, shard INTEGER NOT NULL, time REAL NOT NULL, digest BLOB NOT NULL, flagged BLOB NOT NULL,
    chain BLOB NOT NULL
);
CREATE TABLE block (number INTEGER PRIMARY KEY, rows BLOB NOT NULL, flagged BLOB NOT NULL, chain BLOB NOT NULL);
"""

_LOOSE = struct.Struct("<QdQ")  # of a row's digest: shard, time, length of flagged
_SEALED = np.dtype([("shard", "<u8"), ("time", "<f8"), ("digest", "V32"), ("flagged", "<u8")])  # flagged: its length

# What SQLite calls a fault of the disk or of the rights; everything else that it raises means a damaged file.
_DISK_FAULTS = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_BUSY", "SQLITE_PERM")


@dataclass(frozen=True)
class Record:
    """A shard that is done. digest: SHA-256 of what the sink stored. flagged: rising numbers, within the shard, of the
    rows written as zero rows. time: of the commit, in seconds since 1970."""

    shard: int
    digest: bytes
    flagged: npt.NDArray[np.int64]
    time: float = 0.0


@dataclass(frozen=True)
class State:
    """Where a job stands. shards: how many are committed; flagged: rows of them that are zero rows; published: the sink
    is at its place; verification: the last one, as JSON; live: the cutover in force, {"pointer": file, "previous": what
    it said before}, or {"pointer": None, ...} where the store itself switches."""

    shards: int = 0
    flagged: int = 0
    chain: str = ""
    published: bool = False
    verification: dict[str, Any] | None = None
    live: dict[str, Any] | None = None


@dataclass
class Ledger:
    """An open ledger. One thread at a time. done: committed shard -> number of its row, from 0 on."""

    path: Path
    connection: sqlite3.Connection
    plan: dict[str, Any]
    state: State
    done: dict[int, int] = field(default_factory=dict)
    _block: tuple[int, list[Record]] = (-1, [])  # the sealed block that was read last

    @classmethod
    def create(cls, path: Path, plan: dict[str, Any], fs: FileSystem) -> Ledger:
        """A new ledger at `path`; it appears there whole, or not at all."""
        temp = path.with_name(path.name + ".new")
        for leftover in (temp, temp.with_name(temp.name + "-journal")):
            fs.remove(leftover)
        with _translated(path):
            connection = _connect(temp)
            try:
                connection.executescript("BEGIN;" + _SCHEMA)
                document, state = canonical_json(plan).decode(), _dumps(State())
                connection.execute("INSERT INTO job VALUES (1, ?, ?, ?)", (document, state, _sha(document, state)))
                connection.execute("COMMIT")
            finally:
                connection.close()
        fs.remove(temp.with_name(temp.name + "-journal"))
        fs.publish(temp, path)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Read and check a ledger. Raises CorruptError where it is damaged, StoreError where it cannot be read."""
        with _translated(path):
            if path.stat().st_size == 0:
                raise CorruptError(
                    f"the ledger {path} is empty; restore it, or delete the job directory and start anew"
                )
            connection = _connect(path)
            try:
                return cls(path, connection, *_read(connection))
            except BaseException:
                connection.close()
                raise

    def commit(self, record: Record) -> None:
        """Make one shard done, at this moment. When this returns, a power cut no longer undoes it."""
        if record.shard in self.done:
            raise CorruptError(
                f"shard {record.shard} is committed already in the ledger {self.path}; run no job twice at once"
            )
        row = (record.shard, time.time(), record.digest, _packed(record.flagged))
        chain = _link(bytes.fromhex(self.state.chain), row)
        state = replace(
            self.state,
            shards=self.state.shards + 1,
            flagged=self.state.flagged + len(record.flagged),
            chain=chain.hex(),
        )
        with self._transaction():
            self.connection.execute("INSERT INTO shard VALUES (?, ?, ?, ?, ?, ?)", (state.shards - 1, *row, chain))
            if state.shards % BLOCK_ROWS == 0:
                state = replace(state, chain=self._seal(state.shards // BLOCK_ROWS - 1).hex())
            self._store(state)
        self.state = state
        self.done[record.shard] = state.shards - 1

    def note(self, **changes: Any) -> None:
        """Change fields of the state, durably."""
        state = replace(self.state, **changes)
        with self._transaction():
            self._store(state)
        self.state = state

    def record(self, shard: int) -> Record:
        """What was recorded of a shard that is done."""
        seq = self.done[shard]
        number = seq // BLOCK_ROWS
        with _translated(self.path):
            record = self._loose(seq) if number >= self.state.shards // BLOCK_ROWS else None
            if record is None:  # sealed, perhaps by another process since this one opened the ledger
                if self._block[0] != number:
                    self._block = (number, _unsealed(*_block_row(self.connection, number)))
                record = self._block[1][seq % BLOCK_ROWS]
            if record.shard != shard:
                raise ValueError(f"row {seq} is damaged")
            return record

    def records(self) -> Iterator[Record]:
        """All records, in the order in which they were committed."""
        for shard in list(self.done):
            yield self.record(shard)

    def close(self) -> None:
        self.connection.close()

    def _loose(self, seq: int) -> Record | None:
        query = "SELECT * FROM shard WHERE seq BETWEEN ? AND ? ORDER BY seq"
        found = self.connection.execute(query, (seq - 1, seq)).fetchall()
        if not found:
            return None
        *before, (_, *columns, chain) = found
        row = tuple(columns)
        number = seq // BLOCK_ROWS
        start = before[0][-1] if before else _block_row(self.connection, number - 1)[2] if number else b""
        if _link(start, row) != chain:
            raise ValueError(f"row {seq} is damaged")
        return Record(row[0], row[2], _unpacked(row[3]), row[1])

    def _seal(self, number: int) -> bytes:
        """Move the loose rows into a block; within a transaction. Returns the chain from there on."""
        start = _block_row(self.connection, number - 1)[2] if number else b""
        loose = self.connection.execute("SELECT shard, time, digest, flagged FROM shard ORDER BY seq").fetchall()
        rows = np.array([(shard, at, digest, len(flagged)) for shard, at, digest, flagged in loose], _SEALED).tobytes()
        flagged = b"".join(row[3] for row in loose)
        chain = _block_link(start, rows, flagged)
        self.connection.execute("INSERT INTO block VALUES (?, ?, ?, ?)", (number, rows, flagged, chain))
        self.connection.execute("DELETE FROM shard")
        return chain

    def _store(self, state: State) -> None:
        document, text = canonical_json(self.plan).decode(), _dumps(state)
        self.connection.execute("UPDATE job SET state = ?, sha256 = ? WHERE id = 1", (text, _sha(document, text)))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with _translated(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
                raise


def _connect(path: Path) -> sqlite3.Connection:
    # One connection serves the job's threads one after the other; autocommit, so that transactions are written out.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _read(connection: sqlite3.Connection) -> tuple[dict[str, Any], State, dict[int, int]]:
    connection.execute("BEGIN")  # one snapshot of all tables, also while a running job commits
    try:
        jobs = connection.execute("SELECT plan, state, sha256 FROM job").fetchall()
        if len(jobs) != 1 or _sha(*jobs[0][:2]) != jobs[0][2]:
            raise ValueError("the job's row is damaged")
        state = State(**json.loads(jobs[0][1]))
        chain, shards = b"", list[int]()
        for number, rows, flagged, link in connection.execute("SELECT * FROM block ORDER BY number"):
            if number * BLOCK_ROWS != len(shards) or _block_link(chain, rows, flagged) != link:
                raise ValueError(f"block {number} is damaged")
            chain = link
            shards += np.frombuffer(rows, _SEALED)["shard"].tolist()
        for seq, shard, at, digest, flagged, link in connection.execute("SELECT * FROM shard ORDER BY seq"):
            if seq != len(shards) or _link(chain, (shard, at, digest, flagged)) != link:
                raise ValueError(f"row {len(shards)} is damaged")
            chain = link
            shards.append(shard)
    finally:
        connection.execute("COMMIT")
    done = dict(zip(shards, range(len(shards)), strict=True))
    if (state.shards, state.chain) != (len(shards), chain.hex()) or len(done) != len(shards):
        raise ValueError(f"{state.shards} shards were committed, {len(done)} rows are there")
    return json.loads(jobs[0][0]), state, done


def _block_row(connection: sqlite3.Connection, number: int) -> tuple[bytes, bytes, bytes]:
    """A block and its chain, checked against the block before it."""
    found = connection.execute(
        "SELECT number, rows, flagged, chain FROM block WHERE number BETWEEN ? AND ? ORDER BY number",
        (number - 1, number),
    ).fetchall()
    start = found[0][3] if number else b""
    last, rows, flagged, chain = found[-1]
    if last != number or _block_link(start, rows, flagged) != chain:
        raise ValueError(f"block {number} is damaged")
    return rows, flagged, chain


def _unsealed(rows: bytes, flagged: bytes, _: bytes) -> list[Record]:
    records, offset = [], 0
    for shard, at, digest, length in np.frombuffer(rows, _SEALED).tolist():
        records.append(Record(shard, bytes(digest), _unpacked(flagged[offset : offset + length]), at))
        offset += length
    return records


def _packed(flagged: npt.NDArray[np.int64]) -> bytes:
    return zlib.compress(np.diff(flagged, prepend=0).astype("<i8").tobytes()) if len(flagged) else b""


def _unpacked(blob: bytes) -> npt.NDArray[np.int64]:
    return np.cumsum(np.frombuffer(zlib.decompress(blob) if blob else b"", "<i8"), dtype=np.int64)


def _link(chain: bytes, row: tuple[int, float, bytes, bytes]) -> bytes:
    """The digest of a row and, through `chain`, of all rows before it."""
    shard, at, digest, flagged = row
    return hashlib.sha256(b"".join((chain, _LOOSE.pack(shard, at, len(flagged)), digest, flagged))).digest()


def _block_link(chain: bytes, rows: bytes, flagged: bytes) -> bytes:
    return hashlib.sha256(b"".join((chain, b"block", len(rows).to_bytes(8, "little"), rows, flagged))).digest()


def _sha(plan: str, state: str) -> bytes:
    return hashlib.sha256(f"{plan}\n{state}".encode()).digest()


def _dumps(state: State) -> str:
    return canonical_json(vars(state)).decode()


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's errors, and what damaged values make Python raise, as ours."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot read the ledger {path}: {error.strerror}; check the job directory") from error
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(_DISK_FAULTS):
            raise StoreError(
                f"cannot read or write the ledger {path}: {error} ({name}); see to the disk and run the same command "
                f"again, what was committed is kept"
            ) from error
        raise _damaged(path, error) from error
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
        OverflowError,
        RecursionError,
        struct.error,
        zlib.error,
    ) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CorruptError:
    return CorruptError(
        f"the ledger {path} is damaged ({error}); restore it from a backup, or delete the job directory and start anew"
    )
