"""The cells of payload columns: Arrow arrays to the bytes that PostgreSQL takes and gives, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fct_fast.errors import StoreError
from fct_fast.gallery.stores.postgres.payload import Kind, kind_of
from fct_fast.gallery.stores.postgres.wire import text_fields

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["numbers", "restored", "texts", "wire_pieces"]

Values = np.ndarray[Any, np.dtype[Any]]


def numbers(data: bytes, nulls: bytes, kind: Kind) -> pa.Array:
    """The array of `kind.arrow` whose values follow each other in `data`; nulls: a byte for each, 1 for a NULL."""
    import pyarrow as pa

    assert kind.dtype is not None
    values: Values = np.frombuffer(data, kind.dtype).astype(np.bool_ if kind.wire == "boolean" else _plain_values(kind))
    if kind.base:  # and not for nothing: -0.0 + 0 is 0.0
        values += np.array(kind.base, values.dtype)
    plain = pa.array(values, mask=np.frombuffer(nulls, np.bool_))
    return plain if plain.type == kind.arrow else plain.view(kind.arrow)


def texts(data: bytes, lengths: bytes, kind: Kind) -> pa.Array:
    """The array of `kind.arrow` whose values follow each other in `data`, each of a big-endian length, -1 for NULL."""
    import pyarrow as pa

    sizes = np.frombuffer(lengths, ">i4").astype(np.int32)
    offsets = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(np.maximum(sizes, 0), out=offsets[1:])
    valid = pa.array(sizes >= 0).buffers()[1] if (sizes < 0).any() else None
    return pa.Array.from_buffers(kind.arrow, len(sizes), [valid, pa.py_buffer(offsets), pa.py_buffer(data)])


def restored(column: pa.Array, wanted: pa.DataType, where: str) -> pa.Array:
    """An array of `kind_of(wanted).arrow` in the type `wanted`; of a dictionary, in the type of its values."""
    import pyarrow as pa

    if pa.types.is_dictionary(wanted):
        wanted = wanted.value_type
    if pa.types.is_null(wanted):
        return pa.nulls(len(column))
    try:
        return column if column.type == wanted else column.cast(wanted)
    except pa.ArrowInvalid as error:
        raise StoreError(f"{where} holds a value that was not written by this job ({error})") from error


def wire_pieces(column: pa.ChunkedArray, where: str) -> list[pa.Array]:
    """The pieces of a column for `wire.framed`. Raises StoreError for a value that PostgreSQL cannot hold."""
    import pyarrow as pa

    try:
        return text_fields(_wire_values(_plain(column)))
    except (pa.ArrowInvalid, OverflowError) as error:
        raise StoreError(
            f"{where} cannot keep a value of its payload ({error}); correct it, or leave the payload behind"
        ) from error


def _wire_values(column: pa.Array) -> pa.Array:
    """The bytes of each value as large_binary, NULLs kept."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = kind_of(column.type)
    assert kind is not None
    if kind.dtype is None:
        return column.cast(pa.large_binary() if kind.wire == "bytea" else pa.large_string()).cast(pa.large_binary())
    storage = pa.uint8() if kind.wire == "boolean" else pa.from_numpy_dtype(_plain_values(kind))
    values: Values = pc.fill_null(column.cast(kind.arrow).cast(storage), pa.scalar(0, storage)).to_numpy()
    if kind.base and len(values) and int(values.min()) < np.iinfo(values.dtype).min + kind.base:
        raise OverflowError("a time too long ago")
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.array(np.nan, values.dtype), values)  # PostgreSQL knows one NaN
    sent = np.ascontiguousarray((values - kind.base if kind.base else values).astype(kind.dtype))
    valid = column.is_valid().buffers()[1] if column.null_count else None
    fixed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(kind.dtype.itemsize), len(sent), [valid, pa.py_buffer(sent)])
    return fixed.cast(pa.large_binary())


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """As one array, a dictionary as its values."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _plain_values(kind: Kind) -> np.dtype[Any]:
    assert kind.dtype is not None
    return kind.dtype.newbyteorder("=")
