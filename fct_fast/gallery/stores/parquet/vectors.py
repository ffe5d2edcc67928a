"""Reading the vectors of a column: from the pages where they are plain to see, as Arrow reads them elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.arrow import VectorType, vector_column
from fct_fast.gallery.stores.parquet.chunk_reader import ChunkReader
from fct_fast.gallery.stores.parquet.cursor import BATCH, Cursor, File, Group, near, next_batch
from fct_fast.gallery.stores.parquet.pages import Unusual
from fct_fast.gallery.stores.protocol import Array

__all__ = ["GroupVectors", "VectorCursor", "Vectors"]


@dataclass(frozen=True)
class Vectors:
    """A column of vectors: its name, how it holds them, and how many values each has."""

    name: str
    kind: VectorType
    dim: int


class VectorCursor(Cursor):
    """The vectors of a column, [n, dim]; raises StoreError, ShapeError or CorruptError where they cannot be read."""

    def __init__(self, files: Sequence[File], column: Vectors, fs: FileSystem) -> None:
        super().__init__(files, fs)
        self._column = column
        self._vectors: GroupVectors

    def read(self, start: int, stop: int) -> Array:
        """Rows start to stop."""
        out = np.empty((stop - start, self._column.dim), self._column.kind.dtype)
        done = 0
        for count in self.spans(start, stop):
            self._vectors.fill(out[done : done + count])
            self.row += count
            done += count
        return out

    def take(self, positions: npt.NDArray[np.int64]) -> Array:
        """The rows at some positions, in the order given."""
        rising, places = np.unique(positions, return_inverse=True)
        out = np.empty((len(rising), self._column.dim), self._column.kind.dtype)
        for done, end in near(rising):
            start = int(rising[done])
            out[done:end] = self.read(start, int(rising[end - 1]) + 1)[rising[done:end] - start]
        return out[places]

    def begin(self, group: Group) -> None:
        self._vectors = GroupVectors(group, self._column)

    def skip(self, rows: int) -> None:
        self._vectors.skip(rows)


class GroupVectors:
    """The vectors of one row group, one after the other."""

    def __init__(self, group: Group, column: Vectors) -> None:
        self._group, self._column, self._row = group, column, 0
        chunk = group.table.chunk(group.number, column.name, column.kind, column.dim)
        self._reader: _Pages | _Batches
        if chunk is None:
            self._reader = _Batches(group, column)
        else:
            self._reader = _Pages(ChunkReader(chunk, group.table.file.read_at), chunk.dim)

    def fill(self, out: Array) -> None:
        """The next rows, into `out` [n, dim]."""
        try:
            self._reader.fill(out)
        except Unusual:
            self._leave_to_arrow(self._row)
            self._reader.fill(out)
        self._row += len(out)

    def skip(self, rows: int) -> None:
        """Leave out rows; they are checked all the same."""
        try:
            self._reader.skip(rows)
        except Unusual:
            self._leave_to_arrow(self._row + rows)
        self._row += rows

    def _leave_to_arrow(self, row: int) -> None:
        self._reader = _Batches(self._group, self._column)
        self._reader.skip(row)


class _Pages:
    def __init__(self, reader: ChunkReader, values: int) -> None:
        self._reader, self._values = reader, values

    def fill(self, out: Array) -> None:
        self._reader.fill(out.view(np.uint8).reshape(len(out) * self._values, -1))

    def skip(self, rows: int) -> None:
        self._reader.skip(rows * self._values)


class _Batches:
    def __init__(self, group: Group, column: Vectors) -> None:
        self._batches = group.table.batches(group.number, [column.name], BATCH)
        self._column, self._path = column, group.table.file.path
        self._row = group.first  # of the next batch, in the file
        self._left = np.empty((0, column.dim), column.kind.dtype)

    def fill(self, out: Array) -> None:
        done = 0
        while done < len(out):
            part = self._take(len(out) - done)
            out[done : done + len(part)] = part
            done += len(part)

    def skip(self, rows: int) -> None:
        while rows:
            rows -= len(self._take(rows))

    def _take(self, most: int) -> Array:
        while not len(self._left):
            batch = next_batch(self._batches, self._path)
            kind, where = self._column.kind, f"{self._path}#{self._column.name}"
            self._left = vector_column(
                batch.column(0), where, dim=self._column.dim, binary=kind.dtype, first_row=self._row
            )
            self._row += len(self._left)
        part, self._left = self._left[:most], self._left[most:]
        return part
