"""The ledger: the durable record of a job, one SQLite file.

A shard is done when its row is committed here, and not before. Since SQLite does not notice a flipped bit in a row, or
a page that lost one, each row carries a digest that also covers the row committed before it, and the job's state
records how many rows there are and the last digest: what is read is what was written, or CorruptError.

`synchronous=FULL` with a rollback journal that is truncated at commit: each commit is flushed before it counts. (WAL
would be faster, but needs a shared-memory file that a full disk turns into SIGBUS.)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import CorruptError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.protocol import Digests
from fct_fast.space import canonical_json

__all__ = ["Ledger", "Record", "State"]

_LENGTHS = struct.Struct("<QQQQ")

_SCHEMA = """
CREATE TABLE job (
    id INTEGER PRIMARY KEY CHECK (id = 1), plan TEXT NOT NULL, state TEXT NOT NULL, sha256 BLOB NOT NULL
);
CREATE TABLE shard (
    seq INTEGER PRIMARY KEY, shard INTEGER NOT NULL, vectors BLOB NOT NULL, ids BLOB NOT NULL, flagged BLOB NOT NULL,
    chain BLOB NOT NULL
);
"""

# What SQLite calls a fault of the disk or of the rights; everything else that it raises means a damaged file.
_DISK_FAULTS = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_BUSY", "SQLITE_PERM")


@dataclass(frozen=True)
class Record:
    """A shard that is done. flagged: rising numbers, within the shard, of the rows written as zero rows."""

    shard: int
    digests: Digests
    flagged: npt.NDArray[np.int64]


@dataclass(frozen=True)
class State:
    """Where a job stands. shards: how many are committed; flagged: rows of them that are zero rows; published: the sink
    is at its place; verification: the last one, as JSON; live: the cutover in force, {"pointer": file, "previous": what
    it said before}."""

    shards: int = 0
    flagged: int = 0
    chain: str = ""
    published: bool = False
    verification: dict[str, Any] | None = None
    live: dict[str, Any] | None = None


@dataclass
class Ledger:
    """An open ledger. One thread at a time. done: committed shard -> number of its row."""

    path: Path
    connection: sqlite3.Connection
    plan: dict[str, Any]
    state: State
    done: dict[int, int] = field(default_factory=dict)

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
        """Make one shard done. When this returns, a power cut no longer undoes it."""
        if record.shard in self.done:
            raise CorruptError(
                f"shard {record.shard} is committed already in the ledger {self.path}; run no job twice at once"
            )
        blob = zlib.compress(np.diff(record.flagged, prepend=0).astype("<i8").tobytes()) if len(record.flagged) else b""
        row = (record.shard, record.digests.vectors, record.digests.ids, blob)
        chain = _link(bytes.fromhex(self.state.chain), row)
        state = replace(
            self.state,
            shards=self.state.shards + 1,
            flagged=self.state.flagged + len(record.flagged),
            chain=chain.hex(),
        )
        with self._transaction():
            self.connection.execute("INSERT INTO shard VALUES (?, ?, ?, ?, ?, ?)", (state.shards, *row, chain))
            self._store(state)
        self.state = state
        self.done[record.shard] = state.shards

    def note(self, **changes: Any) -> None:
        """Change fields of the state, durably."""
        state = replace(self.state, **changes)
        with self._transaction():
            self._store(state)
        self.state = state

    def record(self, shard: int) -> Record:
        """What was recorded of a shard that is done."""
        seq = self.done[shard]
        with _translated(self.path):
            query = "SELECT * FROM shard WHERE seq BETWEEN ? AND ? ORDER BY seq"
            *before, (_, *columns, chain) = self.connection.execute(query, (seq - 1, seq)).fetchall()
            row = tuple(columns)
            if row[0] != shard or _link(before[0][-1] if before else b"", row) != chain:
                raise ValueError(f"row {seq} is damaged")
            _, vectors, ids, blob = row
            deltas = np.frombuffer(zlib.decompress(blob), "<i8") if blob else np.zeros(0, np.int64)
            return Record(shard, Digests(vectors, ids), np.cumsum(deltas, dtype=np.int64))

    def flagged(self) -> Iterator[Record]:
        """The records of shards with zero rows, in the order of the gallery."""
        with _translated(self.path):
            found = self.connection.execute(
                "SELECT shard FROM shard WHERE length(flagged) > 0 ORDER BY shard"
            ).fetchall()
        for (shard,) in found:
            yield self.record(shard)

    def close(self) -> None:
        self.connection.close()

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
    connection.execute("BEGIN")  # one snapshot of both tables, also while a running job commits
    try:
        rows = connection.execute("SELECT plan, state, sha256 FROM job").fetchall()
        shards = connection.execute("SELECT * FROM shard ORDER BY seq").fetchall()
    finally:
        connection.execute("COMMIT")
    if len(rows) != 1 or _sha(*rows[0][:2]) != rows[0][2]:
        raise ValueError("the job's row is damaged")
    state = State(**json.loads(rows[0][1]))
    chain, done = b"", dict[int, int]()
    for seq, shard, vectors, ids, flagged, link in shards:
        if seq != len(done) + 1 or shard in done or _link(chain, (shard, vectors, ids, flagged)) != link:
            raise ValueError(f"row {len(done) + 1} is damaged")
        chain = link
        done[shard] = seq
    if (state.shards, state.chain) != (len(done), chain.hex()):
        raise ValueError(f"{state.shards} shards were committed, {len(done)} rows are there")
    return json.loads(rows[0][0]), state, done


def _link(chain: bytes, row: tuple[int, bytes, bytes, bytes]) -> bytes:
    """The digest of a row and, through `chain`, of all rows before it."""
    shard, vectors, ids, flagged = row
    lengths = _LENGTHS.pack(shard, len(vectors), len(ids), len(flagged))
    return hashlib.sha256(b"".join((chain, lengths, vectors, ids, flagged))).digest()


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
