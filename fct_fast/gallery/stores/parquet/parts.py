"""One shard as a Parquet file in memory: from rows to bytes and back. Equal rows give equal bytes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fct_fast.errors import ConfigError, CorruptError, ShapeError, StoreError
from fct_fast.gallery.stores.arrow import VectorType, ids_array, ids_column, vector_array
from fct_fast.gallery.stores.parquet.cursor import Group
from fct_fast.gallery.stores.parquet.dataset import SPACE_KEY
from fct_fast.gallery.stores.parquet.files import Memory, arrow_errors
from fct_fast.gallery.stores.parquet.naming import DTYPE_KEY
from fct_fast.gallery.stores.parquet.tables import ParquetTable
from fct_fast.gallery.stores.parquet.vectors import GroupVectors, Vectors
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.protocol import Array, Layout, Loaded

__all__ = ["PartFormat"]

GROUP_BYTES = 128 << 20  # of vectors in a row group: readers take one at a time
VECTOR, ID = "embedding", "id"  # names of columns where the source's store has none
FORMS = ("fixed", "binary")


class PartFormat:
    """What a part holds: the columns of the source with new vectors in the place of the old ones.

    Raises ConfigError for an option or a column that cannot be kept.
    """

    def __init__(self, place: Place, layout: Layout) -> None:
        self._place, self._layout = place, layout
        like = layout.form if layout.form.get("store") == "parquet" else {}
        fields = _fields(like)
        self.vector = place.column or str(layout.form.get("vector") or VECTOR)
        self.id = str(layout.form.get("id") or ID) if layout.ids_dtype is not None else None
        self._kind = VectorType(_form(place, fields.get(str(layout.form.get("vector")))), layout.dtype, layout.dim)
        self._schema = self._whole_schema(place, like, fields)
        self._options, self._stored = self._writing(place)

    def encode(self, new: Array, ids: Array | None, payload: pa.Table | None) -> pa.Buffer:
        """Raises ShapeError where the columns are not those of the layout or not of one length, StoreError for more
        than Arrow can write at once."""
        columns: dict[str, Any] = {self.vector: vector_array(new.astype(self._layout.dtype, copy=False), self._kind)}
        if self.id is not None and ids is not None:
            columns[self.id] = ids_array(ids, self._schema.field(self.id).type)
        if payload is not None:
            columns |= {name: payload.column(name) for name in payload.column_names}
        lengths = {name: len(column) for name, column in columns.items()}
        if set(columns) != set(self._schema.names) or set(lengths.values()) != {len(new)}:
            raise ShapeError(
                f"a shard of {len(new)} rows was given with the columns {lengths}, not with {self._schema.names}"
            )
        out, rows = pa.BufferOutputStream(), max(1, GROUP_BYTES // self._layout.row_bytes)
        try:
            table = pa.Table.from_arrays(
                [_in_one_piece(columns[name]) for name in self._schema.names], schema=self._schema
            )
            pq.write_table(table, out, row_group_size=rows, **self._options)
        except (pa.ArrowException, TypeError) as error:  # a column of more than 2 GiB, or of another type
            raise StoreError(
                f"{self._place} cannot keep a shard of {len(new)} rows ({error}); try smaller ones"
            ) from error
        return out.getvalue()

    def decode(self, data: bytes, count: int, path: Path) -> Loaded:
        """The `count` rows of a part of the file at `path`. Raises StoreError or CorruptError for bytes that are no
        such part."""
        with arrow_errors(path):
            table = ParquetTable(Memory(path, data))
            if not table.schema.equals(self._stored, check_metadata=True):
                raise CorruptError(f"{path} is not as it was written: its columns have changed")
            if sum(table.rows) != count:
                raise CorruptError(f"{path} holds {sum(table.rows)} rows of a shard, but {count} were committed")
            column = Vectors(self.vector, self._kind, self._layout.dim)
            new, done = np.empty((count, column.dim), column.kind.dtype), 0
            for number, rows in enumerate(table.rows):
                GroupVectors(Group(table, number, done), column).fill(new[done : done + rows])
                done += rows
            rest, ids = table.read([name for name in self._schema.names if name != self.vector]), None
        if self.id is not None:
            ids = ids_column(rest.column(self.id), f"{path}#{self.id}", dtype=self._layout.ids_dtype)
            rest = rest.drop_columns([self.id])
        return Loaded(new, ids, rest if rest.num_columns else None, hashlib.sha256(data).digest())

    def _whole_schema(self, place: Place, like: Mapping[str, Any], fields: Mapping[str, pa.Field]) -> pa.Schema:
        layout = self._layout
        payload = pa.ipc.read_schema(pa.py_buffer(layout.payload)) if layout.payload else pa.schema([])
        found = {field.name: field for field in payload}
        own = [self.vector] if self.id is None else [self.id, self.vector]
        taken = next((name for name in own if name in found or own.count(name) > 1), None)
        if taken is not None:
            raise ConfigError(
                f"{place} would have two columns of the name {taken!r:.80}; name the one of the vectors: "
                f"{place.gallery}#COLUMN"
            )
        if self.id is not None:
            found[self.id] = _id_field(place, self.id, layout.ids_dtype, fields.get(self.id))
        found[self.vector] = _vector_field(self.vector, self._kind)
        before = [str(layout.form.get("vector")), *own]
        order = [self.vector if name == before[0] else name for name in like.get("columns", ())]
        names = [name for name in dict.fromkeys([*order, *own, *payload.names]) if name in found]
        kept = {key: value for key, value in (payload.metadata or {}).items() if key != SPACE_KEY}
        return pa.schema([found[name] for name in names], kept or None)

    def _writing(self, place: Place) -> tuple[dict[str, Any], pa.Schema]:
        """How to write, and the schema that is read back, where Parquet has no seconds, for example. Vectors are plain
        values, which neither a dictionary nor a codec makes smaller; all else is as Arrow writes it."""
        options: dict[str, Any] = {"version": "2.6", "write_page_checksum": True}
        out = pa.BufferOutputStream()
        try:
            pq.write_table(self._schema.empty_table(), out, **options)
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(
                f"{place} cannot keep the payload ({error}); leave it behind with drop_payload=True (--drop-payload), "
                f"or choose another sink"
            ) from error
        empty = ParquetTable(Memory(place.path, out.getvalue().to_pybytes()))
        names = empty.leaves
        others = [name for name in names if name != self.vector and not name.startswith(f"{self.vector}.")]
        options |= {
            "use_dictionary": [name for name in others if name != self.id],
            "write_statistics": others or False,
            "compression": {name: "snappy" if name in others else "none" for name in names},
        }
        return options, empty.schema


def _fields(like: Mapping[str, Any]) -> dict[str, pa.Field]:
    """The source's fields of ids and vectors, where it is of this store."""
    types = base64.b64decode(like.get("types", ""))
    return {field.name: field for field in pa.ipc.read_schema(pa.py_buffer(types))} if types else {}


def _form(place: Place, old: pa.Field | None) -> str:
    """ "fixed" or "binary": as the place says, else as the source has it."""
    form = place.options.get("vectors", "binary" if old and pa.types.is_fixed_size_binary(old.type) else "fixed")
    if form not in FORMS or set(place.options) - {"vectors"}:
        raise ConfigError(f"{place} has an option that is not known; the only one is vectors=fixed or binary")
    return form


def _vector_field(name: str, kind: VectorType) -> pa.Field:
    if kind.form == "binary":
        return pa.field(name, pa.binary(kind.dim * kind.dtype.itemsize), metadata={DTYPE_KEY: kind.dtype.name.encode()})
    return pa.field(name, pa.list_(pa.from_numpy_dtype(kind.dtype), kind.dim))


def _id_field(place: Place, name: str, dtype: np.dtype[Any] | None, like: pa.Field | None) -> pa.Field:
    if dtype is None or dtype.kind not in "iuU":
        raise ConfigError(
            f"{place} keeps ids that are integers or text, not {dtype}; change them, or choose a .npy sink"
        )
    return (
        like if like is not None else pa.field(name, pa.string() if dtype.kind == "U" else pa.from_numpy_dtype(dtype))
    )


def _in_one_piece(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """So that the bytes do not tell how the column was cut."""
    if isinstance(column, pa.Array):
        return column
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.combine_chunks()
