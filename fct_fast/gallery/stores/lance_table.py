"""The table that a Lance sink writes: which columns it has, and a shard of rows as such a table and back.

The fingerprint of the space is in the metadata of the field of vectors, so it stays with the column.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from lance.schema import LanceSchema

from fct_fast.errors import ConfigError, CorruptError
from fct_fast.gallery.stores.arrow import VectorType, ids_array, ids_column, table_digest, vector_array, vector_column
from fct_fast.gallery.stores.protocol import Array, Layout, Loaded
from fct_fast.space import SpaceFingerprint, canonical_json

__all__ = ["LanceTable", "read_space", "stamped", "stored_schema", "vector_type", "without_stamps"]

SPACE = b"fct_fast.space"  # in the metadata of a field
# Keys in the metadata of a schema that would be wrong of the upgraded rows: our own, and widths that `datasets` notes.
_STALE = (b"fct_fast.", b"huggingface")


@dataclass(frozen=True)
class LanceTable:
    """The columns of a written dataset. schema: all, as Lance stores them. vector, id (None: no ids), payload: their
    names; kept: columns beside those that the sink itself fills in."""

    schema: pa.Schema
    vector: str
    id: str | None
    payload: tuple[str, ...]
    kept: tuple[str, ...] = ()

    @classmethod
    def of(cls, layout: Layout, vector: str, where: str) -> LanceTable:
        """Of a new dataset. Raises ConfigError where names collide or Lance has no such type."""
        fields = [pa.field(vector, vector_type(layout))]
        id_ = None
        if layout.ids_dtype is not None:
            id_ = str(layout.form.get("id") or "id")
            text = layout.ids_dtype.kind == "U"
            fields.insert(0, pa.field(id_, pa.string() if text else pa.from_numpy_dtype(layout.ids_dtype)))
        payload = pa.ipc.read_schema(pa.py_buffer(layout.payload)) if layout.payload else pa.schema([])
        fields.extend(payload)
        order = {name: number for number, name in enumerate(layout.form.get("columns") or ())}
        fields.sort(key=lambda field: order.get(field.name, -1))
        schema = stored_schema(without_stamps(pa.schema(fields, payload.metadata)), where)
        return cls(schema, vector, id_, tuple(payload.names))

    def fill(self, new: Array, ids: Array | None, payload: pa.Table | None, kept: pa.Table | None = None) -> pa.Table:
        """Rows [n, dim] with what comes along, as they are stored."""
        columns: dict[str, Any] = {self.vector: vector_array(new, VectorType.of(self._type(self.vector), self.vector))}
        if self.id is not None and ids is not None:
            columns[self.id] = ids_array(ids, self._type(self.id))
        for table in (payload, kept):
            if table is not None:
                columns |= {name: table[name].cast(self._type(name)) for name in table.column_names}
        return pa.table([columns[name] for name in self.schema.names], schema=self.schema)

    def digest(self, table: pa.Table) -> bytes:
        """SHA-256 over the values of a shard."""
        return table_digest(table.select(self.schema.names))

    def loaded(self, table: pa.Table, layout: Layout, where: str) -> Loaded:
        """A shard that was read back. Raises CorruptError where it is not of these columns."""
        if not table.schema.equals(self.schema):
            raise CorruptError(f"{where} has other columns than were written; do not use it")
        try:
            table.validate(full=True)  # damaged offsets must not lead out of the memory that they are in
        except pa.ArrowInvalid as error:
            raise CorruptError(f"{where} is damaged: {str(error).partition(chr(10))[0]:.200}; do not use it") from error
        new = vector_column(table[self.vector], f"{where}, column {self.vector}", dim=layout.dim)
        ids = None
        if self.id is not None:
            ids = ids_column(table[self.id], f"{where}, column {self.id}", dtype=layout.ids_dtype)
        payload = table.select(list(self.payload)) if self.payload else None
        return Loaded(new, ids, payload, self.digest(table))

    def _type(self, name: str) -> pa.DataType:
        return self.schema.field(name).type


def vector_type(layout: Layout) -> pa.DataType:
    return pa.list_(pa.from_numpy_dtype(layout.dtype), layout.dim)


def stored_schema(schema: pa.Schema, where: str) -> pa.Schema:
    """A schema as Lance gives it back. Raises ConfigError where it cannot keep one."""
    names = schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{where} would have two columns {twice[0]!r:.80}, as a payload column has the name of the ids or vectors; "
            f"name another column as SINK#column, or rename it in the source"
        )
    try:
        return LanceSchema.from_pyarrow(schema).to_pyarrow()
    except Exception as error:  # whatever its Rust side raises on a type or name that it does not know
        reason = str(error).partition("LanceError(Schema): ")[2].partition(", /")[0] or str(error)
        raise ConfigError(
            f"{where} cannot keep the payload: {reason:.200}; change that column, or leave the payload behind"
        ) from error


def without_stamps(schema: pa.Schema) -> pa.Schema:
    """A schema without the metadata that tells of the rows as they were."""
    kept = {key: value for key, value in (schema.metadata or {}).items() if not key.startswith(_STALE)}
    return schema.with_metadata(kept or None)


def stamped(schema: pa.Schema, vector: str, space: SpaceFingerprint | None, extra: dict[bytes, bytes]) -> pa.Schema:
    """A schema with a fingerprint on its field of vectors (None takes one away), and `extra` on the whole."""
    number = schema.get_field_index(vector)
    field = schema.field(number)
    metadata = {key: value for key, value in (field.metadata or {}).items() if key != SPACE}
    if space is not None:
        metadata[SPACE] = canonical_json(space.to_json())
    return schema.set(number, field.with_metadata(metadata or None)).with_metadata(
        {**(schema.metadata or {}), **extra} or None
    )


def read_space(field: pa.Field, where: str) -> SpaceFingerprint | None:
    """The fingerprint that a column carries. Raises CorruptError where it cannot be read as one."""
    text = (field.metadata or {}).get(SPACE)
    if text is None:
        return None
    try:
        return SpaceFingerprint.from_json(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptError(
            f"{where} carries a fingerprint that is none; remove the metadata {SPACE.decode()}"
        ) from error
