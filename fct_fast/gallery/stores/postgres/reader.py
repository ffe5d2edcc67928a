"""Rows of one SELECT as arrays: vectors and numbers by binary COPY, all else by CSV, in one snapshot.

Both statements have the same FROM, WHERE and ORDER BY, so their rows pair up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from fct_fast.errors import StoreError
from fct_fast.gallery.stores.postgres.database import Database, compose
from fct_fast.gallery.stores.postgres.payload import kind_of, parse_csv, restored
from fct_fast.gallery.stores.postgres.wire import Fixed, decode
from fct_fast.gallery.stores.protocol import Array

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Found", "read_rows"]


@dataclass(frozen=True)
class Found:
    """The rows of a SELECT: `fixed`, an array for each fixed-width expression; `table`, the others (None for none)."""

    rows: int
    fixed: list[Array]
    table: pa.Table | None


def read_rows(
    db: Database,
    rest: sql.Composable,
    fixed: Sequence[tuple[sql.Composable, Fixed]],
    others: Mapping[str, tuple[sql.Composable, pa.DataType]],
    where: str,
) -> Found:
    """Run `SELECT ... rest` for expressions with fixed-width values, and for others by name, each with the Arrow type
    that it is wanted in. Raises StoreError naming `where`."""
    import pyarrow as pa

    kinds = [kind_of(wanted) for _, wanted in others.values()]
    data = text = b""
    with db.reading():
        if fixed:
            columns = sql.SQL(", ").join(expression for expression, _ in fixed)
            data = db.copy_out(compose("COPY (SELECT {c} {r}) TO STDOUT (FORMAT BINARY)", c=columns, r=rest))
        if others:
            columns = sql.SQL(", ").join(expression for expression, _ in others.values())
            text = db.copy_out(
                compose("COPY (SELECT {c} {r}) TO STDOUT (FORMAT CSV, FORCE_QUOTE *)", c=columns, r=rest)
            )
    arrays = decode(data, [field for _, field in fixed], where) if fixed else []
    del data
    if not others:
        return Found(len(arrays[0]), arrays, None)
    table = parse_csv(text, list(others), [kind.csv for kind in kinds if kind is not None], where)
    if arrays and table.num_rows != len(arrays[0]):
        raise StoreError(f"{where} gave {len(arrays[0])} rows at first and {table.num_rows} then, in one snapshot")
    restored_columns = [restored(table.column(name), wanted, where) for name, (_, wanted) in others.items()]
    return Found(table.num_rows, arrays, pa.Table.from_arrays(restored_columns, names=list(others)))
