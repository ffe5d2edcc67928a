"""Arrays that the command line is given: .npy files, or a folder of shards, read without trust in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fct_fast.errors import DtypeError, ShapeError, StoreError
from fct_fast.fs import DISK
from fct_fast.gallery.stores.npy_column import NpyColumn, NpyFile, ids_path, npy_files
from fct_fast.gallery.stores.npy_format import npy_header

__all__ = ["read_array", "read_ids", "read_labels", "read_rows", "write_array"]

Array: TypeAlias = npt.NDArray[Any]


def read_array(path: Path) -> Array:
    """The array of a .npy file, mapped read-only. Never unpickles. Raises StoreError, DtypeError, ShapeError."""
    if path.is_dir():
        raise StoreError(f"{path} is a folder; give one .npy file")
    header = NpyFile.open(path, DISK).header
    if 0 in header.shape:
        return np.empty(header.shape, header.dtype)
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def read_rows(path: Path, limit: int | None = None) -> Array:
    """Embeddings [n, dim], float32 or float16; the first `limit`. A .npy file is mapped, a folder of them is loaded.

    Raises StoreError, DtypeError, ShapeError.
    """
    column = NpyColumn.vectors(path, DISK)
    if column.rows and not path.is_dir():
        return np.load(path, mmap_mode="r", allow_pickle=False)[:limit]  # type: ignore[no-any-return]
    return column.read(0, column.rows if limit is None else min(limit, column.rows))


def read_ids(gallery: Path, rows: int) -> Array | None:
    """The ids [rows] that a gallery carries in its `.ids.npy` files; None where ids are row numbers."""
    files = [ids_path(file) for file in npy_files(gallery)]
    if not any(file.exists() for file in files):
        return None
    column = NpyColumn.ids(files, DISK)
    if column.rows != rows:
        raise ShapeError(f"{gallery} has {rows} rows but its .ids.npy has {column.rows}; write the ids anew")
    return column.read(0, rows)


def read_labels(path: Path, limit: int | None = None) -> Array:
    """Labels [n], integers or text, of a .npy file; the first `limit`. Raises as `read_rows`."""
    labels = read_array(path)
    if labels.ndim != 1:
        raise ShapeError(f"{path} has shape {list(labels.shape)}, but labels are one a row; reshape and save it again")
    if labels.dtype.kind not in "iubUS":
        raise DtypeError(f"{path} has dtype {labels.dtype}, but labels are integers or text; convert and save it again")
    return np.array(labels[:limit])


def write_array(path: Path, array: Array) -> None:
    """Write a .npy file, whole or not at all. Raises StoreError."""
    array = np.ascontiguousarray(array)
    DISK.write_atomic(path, npy_header(array.dtype, array.shape), array.tobytes())
