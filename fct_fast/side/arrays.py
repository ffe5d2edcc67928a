"""What codecs accept and how they walk over it: finite rows in float64 chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, DtypeError, NonFiniteError, ShapeError

__all__ = ["F32", "F64", "FLOAT32_MAX", "Codes", "checked_rows", "chunks", "parameter"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Codes = npt.NDArray[Any]
"""uint8 or int8 [n, bytes an item]."""

FLOAT32_MAX = float(np.finfo(np.float32).max)
_CHUNK_ROWS = 8192


def checked_rows(rows: npt.ArrayLike, dim: int | None = None) -> npt.NDArray[np.floating[Any]]:
    """Side-information as a numpy array [n, dim], dim >= 1. Raises DtypeError for anything but float16, float32 or
    float64, ShapeError for another shape."""
    array = np.asarray(rows)
    if array.dtype.name not in ("float16", "float32", "float64"):
        raise DtypeError(f"side-information has dtype {array.dtype}; use float32, float16 or float64")
    if array.ndim != 2 or array.shape[1] < 1:
        raise ShapeError(f"side-information must be [rows, {dim or 'dim'}], got {list(array.shape)}")
    if dim is not None and array.shape[1] != dim:
        raise ShapeError(f"side-information has {array.shape[1]} values a row, this codec was fitted on {dim}")
    return array


def chunks(array: npt.NDArray[np.floating[Any]]) -> Iterator[tuple[slice, F64]]:
    """The rows in order, at most 8192 at a time, in float64. Raises NonFiniteError naming the first row that holds
    NaN, Inf or a value beyond float32."""
    for start in range(0, len(array), _CHUNK_ROWS):
        part = array[start : start + _CHUNK_ROWS].astype(np.float64)
        finite = (np.abs(part) <= FLOAT32_MAX).all(axis=1)  # False for NaN too
        if not finite.all():
            raise NonFiniteError(
                f"row {start + int(finite.argmin())} of the side-information holds NaN, Inf or a value beyond float32; "
                f"drop or repair it first"
            )
        yield slice(start, start + len(part)), part


def parameter(name: str, value: F64 | F32, shape: tuple[int, ...]) -> F32:
    """A parameter of a codec as read-only float32 of that shape. Raises ConfigError where it is not finite or has
    another shape."""
    with np.errstate(over="ignore"):  # too large becomes Inf, which is refused
        array = np.array(value, np.float32)
    if array.shape != shape or not np.isfinite(array).all():
        raise ConfigError(f"the {name} of a codec must be finite float32 values {list(shape)}, got {list(array.shape)}")
    array.setflags(write=False)
    return array
