"""What the tests of the Lance store share: a gallery in a dataset, and a disk that notes what is flushed."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from cases_lance import put_dataset
from gallery_support import (
    NEW_DIM,
    make_rows,
    small_bundle,
)

from fct_fast.fs import DISK, FileSystem
from fct_fast.gallery import backfill
from fct_fast.gallery.stores import open_sink, open_source
from fct_fast.gallery.stores.payload import first_difference
from fct_fast.gallery.stores.protocol import Layout, Shard, Sink
from fct_fast.space import SpaceFingerprint
from fct_fast.upgrader import Upgrader

COUNT, SHARD_ROWS, TOKEN = 230, 50, "0a1b2c3d"


class Gallery:
    """A dataset with deleted rows, payload and side-information, and what a job writes of it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.rows = folder, make_rows(COUNT)
        self.path = folder / "items.lance"
        self.places = dict(put_dataset(folder, self.rows, True))
        if options:  # written anew, as another kind of dataset
            table = lance.dataset(str(self.path)).to_table()
            shutil.rmtree(self.path)
            lance.write_dataset(table, str(self.path), max_rows_per_file=100, **options)
        self.new = np.random.default_rng(9).standard_normal((COUNT, NEW_DIM)).astype(np.float32)
        self.up = Upgrader(small_bundle(self.rows), threads=1)

    def source(self) -> Any:
        return open_source(self.places)

    @cached_property
    def layout(self) -> Layout:
        """As the plan of a job keeps it, whatever becomes of the dataset."""
        source = self.source()
        self.read = source.read(Shard(0, 0, COUNT))
        return Layout(COUNT, NEW_DIM, np.dtype("<f4"), source.ids_dtype, SHARD_ROWS, source.payload, source.form)

    def sink(self, place: str = "new.lance", fs: Any = DISK, token: str = TOKEN) -> Any:
        return open_sink(str(self.folder / place), self.layout, token, fs)

    def write(self, sink: Sink, order: range | list[int] | None = None) -> dict[int, bytes]:
        sink.begin()
        return {index: self.write_one(sink, index) for index in (range(5) if order is None else order)}

    def write_one(self, sink: Sink, index: int) -> bytes:
        shard = self.layout.shard(index)
        part = slice(shard.start, shard.stop)
        return sink.write(shard, self.new[part], self.read.ids[part], self.read.payload.slice(shard.start, shard.rows))

    def ready(self, fs: Any = DISK) -> Any:
        """A gallery to be cut over in place, published."""
        sink = self.sink("items.lance", fs)
        self.write(sink)
        sink.publish(SpaceFingerprint.measure(self.new, model_id="new-1"))
        return sink

    def run(self, sink: str, **options: Any) -> Any:
        return backfill(self.places, str(self.folder / sink), self.up, shard_rows=SHARD_ROWS, **options)

    def table(self, version: Any = None) -> pa.Table:
        """What a reader of the live dataset sees."""
        return lance.dataset(str(self.path), version).to_table()

    def holds(self, new: bool) -> bool:
        """Whether the live dataset holds exactly the new rows, or exactly the old ones."""
        table = self.table()
        found = np.stack(table["embedding"].to_numpy())
        psi, ids = np.stack(table["psi"].to_numpy()), table["id"].to_numpy()
        assert np.array_equal(psi, self.rows.side)
        assert np.array_equal(ids, self.rows.ids)
        assert first_difference(self.rows.payload(), table) is None
        return np.array_equal(found, self.new if new else self.rows.old)


def same(one: pa.Table, other: pa.Table) -> bool:
    """Whether two tables are equal, with NaN equal to NaN."""
    return one.schema.equals(other.schema) and first_difference(one, other) is None


class Watched(FileSystem):
    """Notes which files and folders were flushed, and where a rename happened between."""

    def __init__(self) -> None:
        self.paths: dict[int, Path] = {}
        self.log: list[tuple[str, str]] = []

    def open(self, path: Path, flags: int) -> int:
        fd = super().open(path, flags)
        self.paths[fd] = path
        return fd

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self.log.append(("flush", str(self.paths[fd])))

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        self.log.append(("rename", str(target)))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.log.append(("delete", str(path)))
