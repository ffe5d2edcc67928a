"""Reading columns as Arrow tables: ids and payload, those in the files and those that the names of folders give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.parquet.cursor import BATCH, Cursor, File, Group, near, next_batch

__all__ = ["ColumnCursor"]


class ColumnCursor(Cursor):
    """Tables of one schema; raises StoreError where they cannot be read."""

    def __init__(self, files: Sequence[File], schema: pa.Schema, fs: FileSystem) -> None:
        super().__init__(files, fs)
        self._schema = schema
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._left: pa.RecordBatch | None = None

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows start to stop."""
        return pa.Table.from_batches(list(self.batches(start, stop)), self._schema)

    def take(self, positions: npt.NDArray[np.int64]) -> pa.Table:
        """The rows at some positions, in the order given."""
        rising, places = np.unique(positions, return_inverse=True)
        parts = [self._schema.empty_table()]
        for done, end in near(rising):
            start = int(rising[done])
            parts.append(self.read(start, int(rising[end - 1]) + 1).take(rising[done:end] - start))
        return pa.concat_tables(parts).take(places)

    def batches(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Rows start to stop, some at a time."""
        for count in self.spans(start, stop):
            done = 0
            while done < count:
                part = self._take(count - done)
                done += part.num_rows
                self.row += part.num_rows
                yield self._whole(part)

    def begin(self, group: Group) -> None:
        wanted = [name for name in self._schema.names if name not in group.keys]
        self._batches, self._left = group.table.batches(group.number, wanted, BATCH), None

    def skip(self, rows: int) -> None:
        while rows:
            rows -= self._take(rows).num_rows

    def _take(self, most: int) -> pa.RecordBatch:
        while self._left is None or not self._left.num_rows:
            self._left = next_batch(self._batches, self.group.table.file.path)
        part, self._left = self._left.slice(0, most), self._left.slice(most)
        return part

    def _whole(self, part: pa.RecordBatch) -> pa.RecordBatch:
        """With the columns of the schema, in its order."""
        keys = self.group.keys
        columns = [
            pa.repeat(pa.scalar(keys[field.name], field.type), part.num_rows)
            if field.name in keys
            else part.column(field.name)
            for field in self._schema
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)
