"""The rows of a shard as one stream of bytes: what is sent to the server, and what a digest is over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from psycopg import sql

from fct_fast.errors import StoreError
from fct_fast.gallery.stores.postgres.cells import wire_pieces
from fct_fast.gallery.stores.postgres.database import Database, compose, trusted
from fct_fast.gallery.stores.postgres.design import Design
from fct_fast.gallery.stores.postgres.payload import kind_of
from fct_fast.gallery.stores.postgres.table import vector_types
from fct_fast.gallery.stores.postgres.wire import CHUNK_ROWS, framed, number_fields, text_fields, vector_fields
from fct_fast.gallery.stores.protocol import Array, Shard

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Content", "incoming_table"]


@dataclass(frozen=True)
class Content:
    """Rows of a shard: keys [n], int64 or text; new [n, dim]; payload, n rows in the columns of the design."""

    keys: Array
    new: Array
    payload: pa.Table | None

    @classmethod
    def of(cls, shard: Shard, new: Array, ids: Array | None, payload: pa.Table | None, where: str) -> Content:
        """Raises StoreError for an id beyond PostgreSQL's integers."""
        keys = np.arange(shard.start, shard.stop) if ids is None else ids
        if keys.dtype.kind == "u" and len(keys) and int(keys.max()) > np.iinfo(np.int64).max:
            raise StoreError(f"{where} cannot keep the id {keys.max()}: PostgreSQL's integers end at {2**63 - 1}")
        return cls(keys.astype(np.int64) if keys.dtype.kind in "iu" else keys, new, payload)

    def encoded(self, where: str) -> Iterator[memoryview | bytes]:
        """As a binary COPY into the table of `incoming_table`."""
        payload = [] if self.payload is None else self.payload.columns
        return framed(2 + len(payload), self._chunks(where))

    def digest(self, where: str) -> bytes:
        sha = hashlib.sha256()
        for chunk in self.encoded(where):
            sha.update(chunk)
        return sha.digest()

    def _chunks(self, where: str) -> Iterator[list[pa.Array]]:
        import pyarrow as pa

        for start in range(0, len(self.new), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            if self.keys.dtype.kind == "i":
                pieces = number_fields(self.keys[part])
            else:
                pieces = text_fields(pa.array(self.keys[part]).cast(pa.large_binary()))
            pieces += vector_fields(self.new[part])
            for column in [] if self.payload is None else self.payload.columns:
                pieces += wire_pieces(column.slice(start, CHUNK_ROWS), where)
            yield pieces


def incoming_table(db: Database, design: Design, *, text_keys: bool) -> sql.Composed:
    """The statement that makes the temporary table: k, the keys; v, the vectors; p0, p1, ..., the payload."""
    oid = vector_types(db)[design.kind]
    columns = ["k text" if text_keys else "k bigint", f"v {db.one('SELECT format_type(%s, -1)', [oid])[0]}"]
    for number, field in enumerate(design.payload):
        kind = kind_of(field.type)
        assert kind is not None
        columns.append(f"p{number} {kind.wire}")
    return compose("CREATE TEMPORARY TABLE incoming ({columns}) ON COMMIT DROP", columns=trusted(", ".join(columns)))
