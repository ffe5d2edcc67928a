"""The PostgreSQL store: a table with a column of pgvector's `vector` or `halfvec`, ids in a unique column, and payload
in all others.

`postgresql://user@host:port/db?table=items#embedding`; the table may be `schema.items`, other options (`host`,
`sslmode`, `options`, ...) go to the client library, and passwords are taken from PGPASSWORD or ~/.pgpass. Of a sink,
`swap=no` leaves the cutover to a pointer file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fct_fast.errors import ConfigError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.protocol import Columns, Layout

try:
    import psycopg
except ModuleNotFoundError:
    raise
except ImportError as error:  # the package is there, its C library is not
    raise ConfigError(
        f"the postgres store cannot use psycopg ({str(error).splitlines()[0]}); install it with: "
        f"pip install 'psycopg[binary]'"
    ) from error

if TYPE_CHECKING:
    from fct_fast.gallery.stores.postgres.sink import PostgresSink
    from fct_fast.gallery.stores.postgres.source import PostgresSource

__all__ = ["open_sink", "open_source", "psycopg"]


def open_source(columns: Columns, fs: FileSystem) -> PostgresSource:
    from fct_fast.gallery.stores.postgres.source import PostgresSource

    return PostgresSource(columns)


def open_sink(place: Place, layout: Layout, token: str, fs: FileSystem) -> PostgresSink:
    from fct_fast.gallery.stores.postgres.sink import PostgresSink

    return PostgresSink(place, layout, token)
