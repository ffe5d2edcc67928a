"""The rows of a FAISS index file in a fixed order, with their ids.

Rows come by position, as they were added. Those of an IVF that was given ids come by rising id, since its lists do not
tell in which order they were added.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import CorruptError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.faiss_layout import read_index_layout
from fct_fast.gallery.stores.faiss_rows import IndexRows
from fct_fast.gallery.stores.npy_column import NpyColumn, NpyFile
from fct_fast.gallery.stores.npy_format import NpyHeader

__all__ = ["OrderedRows"]

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


class OrderedRows:
    """Rows [rows, dim] of the index at `path`. Raises what `read_index_layout` and `Codec` raise."""

    def __init__(self, path: Path, fs: FileSystem) -> None:
        self.index, self._path, self._fs = read_index_layout(path, fs), path, fs
        self.stored = IndexRows(self.index, path, fs)
        self._slots: I64 | None = None  # of the row at each position; None where they are the same
        self._ids: NpyColumn | I64 | None = None
        if self.index.id_map:
            self._ids = self.column((self.index.rows,), "<i8", self.index.id_map.start)
        if self.index.id_offsets is not None:
            self._order_lists(self.stored.list_ids())

    @property
    def has_ids(self) -> bool:
        """Whether the index keeps ids; elsewhere they are positions. Ids in the lists of an IVF that are the positions
        of all rows are these positions."""
        return self._ids is not None

    @property
    def held_bytes(self) -> int:
        """Ids and order of an IVF, and the quantiser of a lossy index, which FAISS unpacks from its bytes."""
        arrays = [array.nbytes for array in (self._slots, self._ids) if isinstance(array, np.ndarray)]
        return sum(arrays) + 2 * sum(map(len, [*self.index.codec, *self.index.transform]))

    def read(self, start: int, stop: int) -> F32:
        """Rows start to stop; [n, dim]."""
        return self.stored.read(start, stop) if self._slots is None else self.stored.take(self._slots[start:stop])

    def take(self, positions: I64) -> F32:
        """The rows at some positions, in the order given; [n, dim]."""
        return self.stored.take(positions if self._slots is None else self._slots[positions])

    def ids(self, start: int, stop: int) -> I64 | None:
        """The ids of rows start to stop; [n], None where they are positions."""
        if isinstance(self._ids, NpyColumn):
            return self._ids.read(start, stop)
        return None if self._ids is None else self._ids[start:stop]

    def take_ids(self, positions: I64) -> I64 | None:
        if isinstance(self._ids, NpyColumn):
            return self._ids.take(positions)
        return None if self._ids is None else self._ids[positions]

    def column(self, shape: tuple[int, ...], dtype: str, offset: int) -> NpyColumn:
        """A part of the file, read as if it were the rows of a .npy file."""
        header = NpyHeader(shape, np.dtype(dtype), offset)
        return NpyColumn([NpyFile(self._path, header, self.index.stop)], self._fs)

    def identity(self) -> dict[str, Any]:
        """Kind, sizes, times and a digest of some blocks, from the disk as it is now."""
        return self.column((self.index.rows, self.index.dim), "<f4", 0).identity() | {"kind": self.index.kind}

    def _order_lists(self, ids: I64) -> None:
        self._slots = np.argsort(ids, kind="stable")
        ids = ids[self._slots]
        if len(ids) == self.index.counted and np.array_equal(ids, np.arange(len(ids))):
            return
        if self._ids is not None:
            raise CorruptError(
                f"{self._path} does not have each of its {self.index.counted} rows in a list once, as FAISS leaves it "
                f"when rows hold NaN; build it anew without such rows"
            )
        self._ids = ids
