"""Reading forward through the row groups of the files of a gallery, from any row on.

A reader goes on where it stopped, so shards in rising order read every byte once; elsewhere it begins at the row group
that holds the row, and passes over what comes before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fct_fast.errors import StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.parquet.files import arrow_errors
from fct_fast.gallery.stores.parquet.tables import Table, open_table

__all__ = ["BATCH", "Cursor", "File", "Group", "near", "next_batch"]

BATCH = 8192  # rows that Arrow decodes at once
NEAR = 1024  # rows that are read in one go for the sake of some of them


@dataclass(frozen=True)
class File:
    """A file of a gallery. groups: how many rows each row group has; keys: values that the name of its folder gives to
    all of its rows."""

    path: Path
    groups: tuple[int, ...]
    keys: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """A row group of an open file: its number there, and that of its first row. keys: as for `File`."""

    table: Table
    number: int
    first: int
    keys: Mapping[str, Any] = field(default_factory=dict)


class Cursor:
    """Where the next row is. A reader of something says how to begin a group and how to pass over rows in it."""

    def __init__(self, files: Sequence[File], fs: FileSystem) -> None:
        self._files, self._fs = files, fs
        counts = [rows for file in files for rows in file.groups]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])  # of each group, in the gallery
        self._firsts = np.concatenate([[0], np.cumsum([len(file.groups) for file in files])])  # groups of each file
        self._table: tuple[int, Table] | None = None  # the open file
        self._at = -1  # number of the open group, -1 where none is
        self.group: Group
        self.row = 0  # the next row of the open group

    def spans(self, start: int, stop: int) -> Iterator[int]:
        """Go through the rows start to stop: at each step, `row` is the next one, and so many of its group are meant.
        Whoever takes them sets `row` on."""
        at = int(np.searchsorted(self._starts, start, "right")) - 1
        try:
            while start < stop:
                count = min(stop, int(self._starts[at + 1])) - start
                if count:
                    self._go(at, start - int(self._starts[at]))
                    yield count
                start, at = start + count, at + 1
        except BaseException:
            self._at = -1  # what was taken before the error is not known
            raise

    def begin(self, group: Group) -> None:
        """Make ready for the first row of a group."""
        raise NotImplementedError

    def skip(self, rows: int) -> None:
        """Pass over rows of the open group."""
        raise NotImplementedError

    def _go(self, at: int, row: int) -> None:
        if at != self._at or row < self.row:
            self._at = -1
            self.group = self._enter(at)
            self.begin(self.group)
            self._at, self.row = at, 0
        if row > self.row:
            self.skip(row - self.row)
            self.row = row

    def _enter(self, at: int) -> Group:
        number = int(np.searchsorted(self._firsts, at, "right")) - 1
        file, first = self._files[number], int(self._firsts[number])
        if self._table is None or self._table[0] != number:
            self._table = None  # one at a time
            table = open_table(file.path, self._fs)
            if table.rows != file.groups:
                raise StoreError(f"{file.path} was changed while it was read; freeze the gallery and run again")
            self._table = number, table
        return Group(self._table[1], at - first, int(self._starts[at] - self._starts[first]), file.keys)


def near(positions: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Rising positions in runs that are better read in one go: from which to which of them."""
    done = 0
    while done < len(positions):
        end = int(np.searchsorted(positions, int(positions[done]) + NEAR))
        yield done, end
        done = end


def next_batch(batches: Iterator[pa.RecordBatch], path: Path) -> pa.RecordBatch:
    """The next batch of a file. Raises StoreError where there is none, or none can be read."""
    with arrow_errors(path):
        batch = next(batches, None)
    if batch is None:
        raise StoreError(f"{path} ends before its last row; it is damaged, restore it")
    return batch
