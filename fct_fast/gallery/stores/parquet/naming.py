"""Which columns hold the vectors, the ids and the payload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fct_fast.errors import ConfigError, DtypeError, ShapeError, StoreError
from fct_fast.gallery.stores.arrow import VectorType, payload_schema
from fct_fast.gallery.stores.parquet.cursor import next_batch
from fct_fast.gallery.stores.parquet.dataset import SPACE_KEY, Dataset
from fct_fast.gallery.stores.parquet.vectors import Vectors
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.protocol import Columns

__all__ = ["DTYPE_KEY", "Chosen", "choose"]

ID = "id"  # the column of ids where none is named
MOST = 1 << 16  # values of a vector: what a damaged footer says may not fit into memory
DTYPE_KEY = b"fct_fast.dtype"  # in the metadata of a column of fixed-size binary: the dtype of its values

_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
# Metadata that would be wrong of the upgraded rows: the old space, and the lengths of vectors that `datasets` notes.
_STALE = (SPACE_KEY, b"huggingface")


@dataclass(frozen=True)
class Chosen:
    """vectors: "old" and, where it is named, "side"; ids: the name of the column, or None; payload: the schema of all
    other columns; notes: for the user."""

    vectors: Mapping[str, Vectors]
    ids: str | None
    payload: pa.Schema
    notes: Sequence[str]


def choose(columns: Columns, data: Dataset) -> Chosen:
    """Raises ConfigError where it is not clear which column is meant or one is missing, DtypeError, ShapeError or
    StoreError where it does not hold what it should."""
    for place in filter(None, (columns.old, columns.side, columns.ids)):
        if set(place.options) - {"dtype", "vectors"} or place.options.get("dtype", "float32") not in _DTYPES:
            raise ConfigError(f"{place} has an option that is not known; the only one is dtype=float32 or float16")
        if place.column and place.column not in data.stored:
            raise ConfigError(
                f"{place.gallery} has no column {place.column!r:.80}; it has {', '.join(data.schema.names)}"
            )
    for place in filter(None, (columns.side, columns.ids)):
        if place.gallery != columns.old.gallery or not place.column:
            raise ConfigError(f"{place} names no column of {columns.old.gallery}; write it as #COLUMN")
    named = {place.column for place in filter(None, (columns.side, columns.ids))}
    places = {"old": columns.old} | ({"side": columns.side} if columns.side is not None else {})
    vectors = {
        name: _vectors(place.column or _only_vectors(place, data, named), place, data) for name, place in places.items()
    }
    notes: list[str] = []
    ids = columns.ids.column if columns.ids is not None else _usual_ids(data, notes)
    used = [column.name for column in vectors.values()] + ([ids] if ids is not None else [])
    if len(set(used)) < len(used):
        raise ConfigError(f"{columns.old.gallery}: {', '.join(used)} are not different columns; name one for each use")
    payload = payload_schema(data.schema, used)
    kept = {key: value for key, value in (payload.metadata or {}).items() if key not in _STALE}
    return Chosen(vectors, ids, payload.with_metadata(kept or None), notes)


def _binary(field: pa.Field, place: Place) -> np.dtype[Any]:
    """The dtype of the values in a fixed-size binary: as the place says, as the column says, float32."""
    stamped = (field.metadata or {}).get(DTYPE_KEY, b"float32").decode("utf-8", "replace")
    return _DTYPES.get(place.options.get("dtype", stamped), _DTYPES["float32"])


def _only_vectors(place: Place, data: Dataset, named: set[str]) -> str:
    """The column of vectors where none is named: the only one there is."""
    fields = [data.schema.field(name) for name in data.stored if name not in named]
    found = [f.name for f in fields if VectorType.find(f.type, None) or DTYPE_KEY in (f.metadata or {})]
    if not found:  # a binary may be anything, so it counts only where nothing else does
        found = [f.name for f in fields if VectorType.find(f.type, _binary(f, place))]
    if not found:
        raise DtypeError(
            f"{place} has no column of float32 or float16 vectors; it has "
            f"{', '.join(f'{f.name}: {f.type}' for f in data.schema)}"
        )
    if len(found) > 1:
        raise ConfigError(f"{place} has several columns of vectors, {', '.join(found)}; name one: {place}#{found[0]}")
    return str(found[0])


def _vectors(name: str, place: Place, data: Dataset) -> Vectors:
    where, field = f"{place.gallery}#{name}", data.schema.field(name)
    kind = VectorType.of(field.type, where, _binary(field, place))
    dim = kind.dim or _first_length(data, name, where)
    if dim > MOST:
        raise ShapeError(f"{where} has vectors of {dim} values, more than {MOST}; check that it holds embeddings")
    return Vectors(name, kind, dim)


def _first_length(data: Dataset, name: str, where: str) -> int:
    """The length of the first list of a column, which is that of all or they are refused later."""
    table, group = data.table()
    first = next_batch(table.batches(group, [name], 1), table.file.path).column(0)[0]
    if not first.is_valid:
        raise StoreError(f"{where} is NULL in row 0; every row needs a vector, so fill it or leave the row out")
    if not len(first):
        raise ShapeError(f"{where} is empty in row 0; all vectors must be of one length, from 1 on")
    return len(first)


def _usual_ids(data: Dataset, notes: list[str]) -> str | None:
    if ID not in data.stored:
        return None
    type_ = data.schema.field(ID).type
    type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
    if any(test(type_) for test in (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)):
        return ID
    notes.append(
        f"The column {ID} of {data.path} is {type_}, neither integer nor text: it travels as payload, ids are row "
        f"positions."
    )
    return None
