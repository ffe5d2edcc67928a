"""One connection to a PostgreSQL server, opened when it is first needed and again after it was lost.

Every statement runs in a transaction that sets what its answers depend on (time zone, formats), so that a value reads
the same whatever the defaults of server, database and user are, also behind a pooler that shares sessions.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql

from fct_fast.errors import ConfigError, StoreError
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.postgres.sentences import sentences

__all__ = ["OWN_OPTIONS", "Database", "Query", "compose", "trusted"]

Query = LiteralString | sql.Composed
Parameters = Sequence[Any] | Mapping[str, Any]
Buffer = bytes | bytearray | memoryview

OWN_OPTIONS = ("table", "oid", "swap")
"""Options of a place that are ours; all others go to the client library."""

_DEFAULTS = {
    "keepalives_idle": "30",  # a server that vanished without a word is noticed in a minute, not in two hours
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_DEFAULTS_UNLESS_SET = {"PGCONNECT_TIMEOUT": ("connect_timeout", "15"), "PGAPPNAME": ("application_name", "fct-fast")}
_SETTINGS = (
    "SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'; SET LOCAL IntervalStyle = 'postgres'; "
    "SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'; SET LOCAL client_encoding = 'UTF8'; "
    "SET LOCAL row_security = off; "  # an error rather than rows that a policy hides
    "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
)
# What a commit promises must not depend on a default of "off"; a stricter default is left alone.
_DURABLE: LiteralString = (
    "SELECT set_config('synchronous_commit', 'on', true) "
    "WHERE current_setting('synchronous_commit') IN ('off', 'local')"
)


def compose(text: LiteralString, /, **parts: sql.Composable) -> sql.Composed:
    """SQL text with `{name}` places for identifiers, literals and other SQL."""
    return sql.SQL(text).format(**parts)


def trusted(text: str) -> sql.SQL:
    """SQL that the server itself wrote, such as the name of a type or the definition of an index."""
    return sql.SQL(cast(Any, text))


class Database:
    """The database of a place. Raises ConfigError where the place is no good, StoreError whenever the server says no.

    Not for several threads at once, except `close`.
    """

    def __init__(self, place: Place) -> None:
        if "password" in place.options:
            raise ConfigError(
                f"{place.location} comes with a password, which the job's ledger would keep; leave it out and set it "
                f"where the client looks for it, PGPASSWORD or ~/.pgpass"
            )
        self.name = str(place)
        given = {name: value for name, value in place.options.items() if name not in OWN_OPTIONS}
        try:
            asked = psycopg.conninfo.conninfo_to_dict(psycopg.conninfo.make_conninfo(place.location, **given))
        except psycopg.Error as error:
            raise ConfigError(f"{place} is no place of a PostgreSQL table: {str(error).strip()}") from error
        unset = dict(option for name, option in _DEFAULTS_UNLESS_SET.items() if name not in os.environ)
        self._conninfo: dict[str, Any] = {**_DEFAULTS, **unset, **asked}
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._inside = False

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """A transaction that sees one state of the database and changes nothing; may be nested."""
        with self._transaction("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; " + _SETTINGS):
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction whose commit, once this returns, no power cut takes back. Not to be nested."""
        assert not self._inside
        with self._transaction(_SETTINGS):
            self.rows(_DURABLE)
            yield

    @contextlib.contextmanager
    def _transaction(self, settings: LiteralString) -> Iterator[None]:
        if self._inside:
            yield
            return
        with sentences(self.name):
            connection = self._connected()
            with connection.transaction():
                connection.execute(settings)
                self._inside = True
                try:
                    yield
                finally:
                    self._inside = False

    def rows(self, query: Query, parameters: Parameters | None = None) -> list[tuple[Any, ...]]:
        """Run one statement; the rows that it returns, none where it is no query."""
        with self._entered(), sentences(self.name):
            cursor = self._connected().execute(query, parameters)
            return cursor.fetchall() if cursor.description is not None else []

    def one(self, query: Query, parameters: Parameters | None = None) -> tuple[Any, ...]:
        """The single row of a query."""
        (row,) = self.rows(query, parameters)
        return row

    def run(self, query: Query, parameters: Parameters | None = None) -> int:
        """Run one statement in the transaction at hand; how many rows it touched."""
        assert self._inside
        with sentences(self.name):
            return self._connected().execute(query, parameters).rowcount

    def one_binary(self, query: sql.Composed) -> tuple[Any, ...]:
        """The single row of a query whose values are numbers and bytes."""
        with self._entered(), sentences(self.name), self._connected().cursor(binary=True) as cursor:
            row = cursor.execute(query).fetchone()
        assert row is not None
        return row

    def copy_in(self, query: sql.Composed, chunks: Iterable[Buffer]) -> None:
        """Feed a `COPY ... FROM STDIN` in the transaction at hand."""
        assert self._inside
        with sentences(self.name), self._connected().cursor() as cursor, cursor.copy(query) as copy:
            for chunk in chunks:
                copy.write(chunk)

    @property
    def version(self) -> int:
        """Of the server, as 180004 for 18.4."""
        return self._connected().info.server_version

    def identity(self) -> tuple[str, int]:
        """What tells this database from any other, also when it is reached under another name."""
        with self.reading():
            ((number, allowed),) = self.rows(
                "SELECT oid::bigint, has_function_privilege('pg_catalog.pg_control_system()', 'execute') "
                "FROM pg_database WHERE datname = current_database()"
            )
            if allowed:
                return self.one("SELECT system_identifier::text FROM pg_control_system()")[0], number
        info = self._connected().info
        return f"{info.host}:{info.port}", number

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        """The transaction at hand, or one for a single look."""
        with contextlib.nullcontext() if self._inside else self.reading():
            yield

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        connection = self._connection
        if connection is not None and not connection.closed:
            return connection
        if self._inside:
            raise StoreError(f"{self.name}: the connection was closed; run the same command again")
        with sentences(self.name):
            # Statements are not prepared: a pooler may send the next one to another session.
            self._connection = connection = psycopg.connect(autocommit=True, prepare_threshold=None, **self._conninfo)
        return connection
