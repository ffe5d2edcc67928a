"""Arrow columns as numpy arrays and back: vectors, ids, and a digest of whole tables.

Vectors come as FixedSizeList of float or halffloat, as fixed-size binary (the little-endian values of a row), or as
lists that are all of one length. What numpy can look at is not copied; such arrays are read-only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fct_fast.errors import DtypeError, ShapeError, StoreError
from fct_fast.gallery.stores.protocol import Array

__all__ = [
    "VectorType",
    "ids_array",
    "ids_column",
    "payload_schema",
    "table_digest",
    "text_width",
    "vector_array",
    "vector_column",
]

_FLOAT32 = np.dtype("<f4")
_FLOATS: dict[pa.DataType, np.dtype[Any]] = {pa.float32(): _FLOAT32, pa.float16(): np.dtype("<f2")}


@dataclass(frozen=True)
class VectorType:
    """How a column holds vectors. form: "fixed" (FixedSizeList), "binary" (fixed-size binary) or "list" (lists of any
    length, which must turn out to be of one); dim: values a row, 0 for "list"."""

    form: str
    dtype: np.dtype[Any]
    dim: int

    @classmethod
    def find(cls, type_: pa.DataType, binary: np.dtype[Any] | None = None) -> VectorType | None:
        """Of an Arrow type; None for a type that holds no float32 or float16 vectors. binary: dtype of the values in a
        fixed-size binary, which is no vector where this is None."""
        type_ = _storage(type_)
        if pa.types.is_fixed_size_binary(type_) and binary is not None and type_.byte_width % binary.itemsize == 0:
            return cls("binary", binary, type_.byte_width // binary.itemsize) if type_.byte_width else None
        if pa.types.is_fixed_size_list(type_) and type_.value_type in _FLOATS and type_.list_size > 0:
            return cls("fixed", _FLOATS[type_.value_type], type_.list_size)
        if (pa.types.is_list(type_) or pa.types.is_large_list(type_)) and type_.value_type in _FLOATS:
            return cls("list", _FLOATS[type_.value_type], 0)
        return None

    @classmethod
    def of(cls, type_: pa.DataType, where: str, binary: np.dtype[Any] | None = _FLOAT32) -> VectorType:
        """As `find`. Raises DtypeError, naming the column `where`, for a type that holds no vectors."""
        found = cls.find(type_, binary)
        if found is None:
            raise DtypeError(
                f"{where} is a column of {type_}, not of vectors; name another one, or cast it to a fixed-size list of "
                f"float or halffloat, in pyarrow: column.cast(pa.list_(pa.float32(), dim))"
            )
        return found


def vector_column(
    column: pa.Array | pa.ChunkedArray,
    where: str,
    *,
    dim: int | None = None,
    binary: np.dtype[Any] | None = _FLOAT32,
    first_row: int = 0,
) -> Array:
    """The vectors of a column, [n, dim] float32 or float16; read-only where it is a view of the column's memory.

    where: the column, for messages; first_row: the number of its first row there. dim: what all rows must have; None:
    as many values as the first row. binary: dtype of the values in fixed-size binary.
    Raises DtypeError for a column of something else, StoreError for NULL, ShapeError for rows of differing length.
    """
    kind = VectorType.of(column.type, where, binary)
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts: list[Array] = []
    row = first_row
    for chunk in chunks:
        if not len(chunk):
            continue
        part = _vectors(_stored(chunk), kind, where, dim, row)
        dim = part.shape[1]
        parts.append(part)
        row += len(part)
    if len(parts) == 1:
        return np.require(parts[0], requirements=["C", "A"])
    return np.concatenate(parts) if parts else np.empty((0, dim or kind.dim), kind.dtype)


def vector_array(rows: Array, like: VectorType) -> pa.Array:
    """Rows [n, dim] float32 or float16 as an Arrow array in the form of `like` ("list" becomes "fixed"), not copied
    where they are contiguous."""
    rows = np.ascontiguousarray(rows)
    count, dim = rows.shape
    if like.form == "binary":
        return pa.Array.from_buffers(pa.binary(dim * rows.itemsize), count, [None, pa.py_buffer(rows)])
    values = pa.Array.from_buffers(pa.from_numpy_dtype(rows.dtype), rows.size, [None, pa.py_buffer(rows)])
    return pa.FixedSizeListArray.from_arrays(values, dim)


def ids_column(
    column: pa.Array | pa.ChunkedArray, where: str, *, dtype: np.dtype[Any] | None = None, first_row: int = 0
) -> Array:
    """The ids of a column, [n]: integers as they are, text as fixed-width text.

    dtype: what the ids of the whole gallery have, for a part of them. where, first_row: as for `vector_column`. Raises
    DtypeError for another type, StoreError for NULL and for text that ends in NUL, which fixed-width text cannot hold.
    """
    column, text = _plain_ids(column, where)
    if column.null_count:
        row = first_row + pc.index(pc.is_null(column), True).as_py()
        raise StoreError(f"{where} is NULL in row {row}; every row needs an id, or none")
    if not text:
        return np.asarray(column.to_numpy()) if dtype is None else np.asarray(column.to_numpy(), dtype)
    cut = pc.index(pc.ends_with(column, "\0"), True).as_py()
    if cut >= 0:
        raise StoreError(f"{where} ends in NUL in row {first_row + cut}; such an id cannot be kept, change it")
    if dtype is None:
        dtype = np.dtype(f"<U{text_width(column)}")
    values = column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()
    return np.asarray(values).astype(dtype)


def text_width(column: pa.Array | pa.ChunkedArray) -> int:
    """Characters of the longest text of a column, at least 1."""
    return max(1, pc.max(pc.utf8_length(column)).as_py() or 1)


def ids_array(ids: Array, type_: pa.DataType) -> pa.Array:
    """Ids [n] as an Arrow array of `type_`, which came from `ids_column` of such a column."""
    array = pa.array(ids)
    if pa.types.is_dictionary(type_):
        return array.cast(type_.value_type).dictionary_encode().cast(type_)
    return array.cast(type_)


def payload_schema(schema: pa.Schema, leave_out: Collection[str]) -> pa.Schema:
    """The columns that only travel along: all but those named, with the metadata of the whole."""
    return pa.schema([field for field in schema if field.name not in leave_out], schema.metadata)


def table_digest(table: pa.Table) -> bytes:
    """SHA-256 of the values of a table, with the names of its columns.

    It does not depend on how the table is cut in chunks, on what lies under a NULL, or on how a dictionary is built.
    """
    digest = hashlib.sha256()
    for number, name in enumerate(table.column_names):
        streams = _Streams()
        for chunk in table.column(number).chunks:
            _feed(streams, "", chunk)
        digest.update(f"{len(name.encode())} {name} {table.num_rows} ".encode() + streams.digest())
    return digest.digest()


def _vectors(chunk: pa.Array, kind: VectorType, where: str, dim: int | None, row: int) -> Array:
    """The rows of one chunk, which has some."""
    if chunk.null_count:
        raise StoreError(
            f"{where} is NULL in row {row + pc.index(pc.is_null(chunk), True).as_py()}; every row needs a vector, so "
            f"fill it or leave the row out"
        )
    if kind.form == "binary":
        found, flat = kind.dim, np.frombuffer(chunk.buffers()[1], np.uint8)
        width = chunk.type.byte_width
        flat = flat[chunk.offset * width : (chunk.offset + len(chunk)) * width].view(kind.dtype)
    else:
        found, values = _list_values(chunk, kind, where, dim, row)
        if values.null_count:
            place = pc.index(pc.is_null(values), True).as_py()
            raise StoreError(f"{where} holds NULL within the vector of row {row + place // max(1, found)}; complete it")
        flat = np.frombuffer(values.buffers()[1] or b"", kind.dtype)[values.offset : values.offset + len(values)]
    if found < 1 or (dim is not None and found != dim):
        raise _ragged(where, row, found, dim)
    return flat.reshape(len(chunk), found)


def _list_values(chunk: pa.Array, kind: VectorType, where: str, dim: int | None, row: int) -> tuple[int, pa.Array]:
    """Length of the lists, which is one for all, and their values one after the other."""
    values = chunk.flatten()
    if kind.form == "fixed":
        return kind.dim, values
    lengths = pc.list_value_length(chunk).to_numpy()
    found = int(lengths[0]) if dim is None else dim
    wrong = np.flatnonzero(lengths != found)
    if len(wrong):
        raise _ragged(where, row + int(wrong[0]), int(lengths[wrong[0]]), found)
    return found, values


def _ragged(where: str, row: int, found: int, dim: int | None) -> ShapeError:
    wanted = "at least one" if dim is None else f"{dim} as the rows before it"
    return ShapeError(f"{where} has {found} values in row {row}, not {wanted}; all vectors must be of one length")


def _storage(type_: pa.DataType) -> pa.DataType:
    return type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_


def _stored(chunk: pa.Array) -> pa.Array:
    return chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk


def _plain_ids(column: pa.Array | pa.ChunkedArray, where: str) -> tuple[pa.Array | pa.ChunkedArray, bool]:
    """The column without dictionary, and whether it is text. Raises DtypeError for what are no ids."""
    type_ = column.type
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
        column = column.cast(type_)
    if pa.types.is_integer(type_):
        return column, False
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return column.cast(pa.large_string()), True
    raise DtypeError(f"{where} is a column of {type_}; ids are integers or text, so cast it or name another column")


class _Streams:
    """Bytes of several kinds, each hashed on its own, so that it does not matter how they were cut."""

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}

    def update(self, name: str, data: Any) -> None:
        if name not in self._hashes:
            self._hashes[name] = hashlib.sha256()
        self._hashes[name].update(data)

    def digest(self) -> bytes:
        whole = hashlib.sha256()
        for name in sorted(self._hashes):
            whole.update(name.encode() + b"\0" + self._hashes[name].digest())
        return whole.digest()


def _feed(streams: _Streams, path: str, array: pa.Array) -> None:
    """The values of an array and of all that is nested in it; NULL rows count as NULL whatever lies under them."""
    array = _unwrapped(array)
    type_ = array.type
    streams.update(f"{path}.valid", np.asarray(array.is_valid().to_numpy(zero_copy_only=False), np.uint8))
    if pa.types.is_null(type_):
        return
    if pa.types.is_struct(type_):
        for number, child in enumerate(array.flatten()):  # NULL structs have NULL fields here
            _feed(streams, f"{path}.{number}", child)
        return
    kept = array.drop_null()
    if pa.types.is_map(type_):
        kept = kept.cast(pa.list_(pa.struct([type_.key_field, type_.item_field])))
    if pa.types.is_fixed_size_list(type_):
        _feed(streams, f"{path}[]", kept.flatten())
    elif pa.types.is_nested(kept.type):
        streams.update(f"{path}.lengths", pc.list_value_length(kept).cast(pa.int64()).to_numpy())
        _feed(streams, f"{path}[]", kept.flatten())
    elif pa.types.is_large_binary(kept.type):
        streams.update(f"{path}.lengths", pc.binary_length(kept).to_numpy())
        streams.update(path, _slice_of(kept, np.frombuffer(kept.buffers()[1], np.int64)))
    elif pa.types.is_boolean(type_):
        streams.update(path, np.asarray(kept.to_numpy(zero_copy_only=False), np.uint8))
    elif len(kept):
        width = type_.bit_width // 8
        data = memoryview(kept.buffers()[1])
        streams.update(path, data[kept.offset * width : (kept.offset + len(kept)) * width])


def _unwrapped(array: pa.Array) -> pa.Array:
    """The same values in a type that `_feed` knows: without extension, dictionary or runs, texts as large binary."""
    array = _stored(array)
    type_ = array.type
    if pa.types.is_dictionary(type_):
        return _unwrapped(array.dictionary_decode())
    if pa.types.is_run_end_encoded(type_):
        return _unwrapped(pc.run_end_decode(array))
    texts: list[Callable[[pa.DataType], bool]] = [
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_binary_view,
    ]
    return array.cast(pa.large_binary()) if any(test(type_) for test in texts) else array


def _slice_of(array: pa.Array, offsets: Array) -> memoryview:
    data = array.buffers()[2]
    view = memoryview(data) if data is not None else memoryview(b"")
    return view[offsets[array.offset] : offsets[array.offset + len(array)]]
