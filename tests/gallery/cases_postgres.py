"""The PostgreSQL store: a table that becomes a twin in its own schema, and one that is written to another database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gallery_support import Rows
from postgres_support import fill, schema_of, server
from store_cases import Case


def put(folder: Path, rows: Rows, ids: bool, kind: str = "vector") -> Mapping[str, str]:
    table = f"{schema_of(folder)}.items_{folder.name}"
    with server().connect() as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema_of(folder)}")  # type: ignore[arg-type]
        fill(connection, table, rows, kind=kind)
    return {"old": server().place(table, "embedding"), "side": "#psi"}


def sink(folder: Path) -> str:
    return server().place(f"{schema_of(folder)}.new_{folder.name}", "embedding")


def elsewhere(folder: Path) -> str:
    """In another database than the source: no twin, but a table made from the Arrow schema."""
    if not server().run("SELECT FROM pg_database WHERE datname = 'elsewhere'"):
        server().run("CREATE DATABASE elsewhere")
        server().run("CREATE EXTENSION vector", database="elsewhere")
    server().run(f"CREATE SCHEMA IF NOT EXISTS {schema_of(folder)}", database="elsewhere")
    return server().place(f"{schema_of(folder)}.new_{folder.name}", "embedding", database="elsewhere")


CASES = [
    Case("postgres twin", put, sink, with_ids=(True,), payload=True, same_bytes=False, files=False),
    Case("postgres elsewhere", put, elsewhere, with_ids=(True,), payload=True, same_bytes=False, files=False),
]
