"""The header of a .npy file, read from untrusted bytes and written in one fixed form.

Reading uses numpy's own parser, which evaluates literals only and never unpickles. Writing does not use numpy's writer,
because its padding differs between versions, and a resumed job must find its bytes where it left them.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from fct_fast.errors import DtypeError, ShapeError, StoreError

__all__ = ["NpyHeader", "npy_header", "parse_npy_header"]

PROBE = 1 << 16  # bytes of a file that hold its header, whatever its dtype


@dataclass(frozen=True)
class NpyHeader:
    """shape and dtype of the array, and the offset of its first byte."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    @property
    def row_bytes(self) -> int:
        values = 1
        for extent in self.shape[1:]:
            values *= extent
        return values * self.dtype.itemsize


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The bytes before the data: format 1.0, C order, padded to a multiple of 64."""
    text = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}).encode("latin1")
    length = -(-(10 + len(text) + 1) // 64) * 64 - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1) + b"\n"


def parse_npy_header(head: bytes, size: int, path: object) -> NpyHeader:
    """The header in `head`, the first bytes of a file of `size` bytes; the rest must be exactly the array.

    Raises StoreError for what is no .npy file, is cut short or has bytes too many, DtypeError for object arrays (which
    would need unpickling) and Fortran order, ShapeError for a negative extent.
    """
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream, max_header_size=PROBE)
    except Exception as error:  # the parser meets hostile bytes and raises whatever Python raises on them
        if not head.startswith(b"\x93NUMPY"):
            raise StoreError(f"{path} is not a .npy file; give one written by numpy.save") from error
        raise StoreError(f"{path} has a damaged .npy header; write the file anew") from error
    if dtype.hasobject:
        raise DtypeError(f"{path} holds Python objects, which are never unpickled; save it with a plain dtype")
    if any(extent < 0 for extent in shape):
        raise ShapeError(f"{path} has a negative extent in its shape {shape}; write the file anew")
    if fortran and len(shape) > 1:
        raise DtypeError(f"{path} is in Fortran order; save it again with numpy.ascontiguousarray")
    header = NpyHeader(shape, dtype, stream.tell())
    expected = header.offset + (shape[0] if shape else 1) * header.row_bytes
    if size < expected:
        raise StoreError(
            f"{path} is cut short: its header needs {expected} bytes, the file has {size}; restore it from its origin"
        )
    if size > expected:
        raise StoreError(f"{path} has {size - expected} bytes more than its header says; restore it from its origin")
    return header
