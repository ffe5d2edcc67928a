"""Parquet files of many kinds, for the tests of the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fct_fast.fs import FileSystem
from fct_fast.gallery.stores import open_sink
from fct_fast.gallery.stores.arrow import VectorType, vector_array
from fct_fast.gallery.stores.protocol import Layout, Shard, Sink, Source

Array = np.ndarray[Any, Any]


def vectors(count: int, dim: int, dtype: str = "<f4", seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(dtype)


def gallery(count: int = 230, dim: int = 16, dtype: str = "<f4", form: str = "fixed", seed: int = 0) -> pa.Table:
    """Columns id, emb and text."""
    rows = vectors(count, dim, dtype, seed)
    column = pa.array(list(rows), pa.list_(pa.from_numpy_dtype(rows.dtype)))
    if form != "list":
        column = vector_array(rows, VectorType(form, rows.dtype, dim))
    texts = [None if i % 5 == 2 else f"text {i}" for i in range(count)]
    return pa.table({"id": np.arange(count) * 7, "emb": column, "text": texts})


def stored(folder: Path, table: pa.Table, name: str = "a.parquet", **options: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def layout_of(source: Source, dim: int = 8, dtype: str = "<f4", shard_rows: int = 50) -> Layout:
    return Layout(source.rows, dim, np.dtype(dtype), source.ids_dtype, shard_rows, source.payload, dict(source.form))


def written(place: Path | str, source: Source, layout: Layout, new: Array) -> Sink:
    """A sink with all rows of the source, not published yet."""
    sink = open_sink(place, layout, "0a1b2c3d")
    sink.begin()
    for shard in map(layout.shard, range(layout.shards)):
        rows = source.read(shard)
        sink.write(shard, new[shard.start : shard.stop], rows.ids, rows.payload)
    return sink


def flipped(data: bytes, positions: list[int], rng: np.random.Generator) -> Iterator[bytes]:
    """The data with one bit changed, at each of some bytes."""
    for position in positions:
        changed = bytearray(data)
        changed[position] ^= 1 << int(rng.integers(8))
        yield bytes(changed)


class CountingDisk(FileSystem):
    """Knows how many bytes were read of files."""

    def __init__(self) -> None:
        self.read_bytes = 0

    def pread(self, fd: int, buffer: memoryview, offset: int) -> int:
        count = super().pread(fd, buffer, offset)
        self.read_bytes += count
        return count


def read_all(source: Source, step: int = 70) -> tuple[Array, Any, pa.Table | None]:
    parts = [source.read(Shard(i, a, min(a + step, source.rows))) for i, a in enumerate(range(0, source.rows, step))]
    ids = None if parts[0].ids is None else np.concatenate([part.ids for part in parts if part.ids is not None])
    payload = None if parts[0].payload is None else pa.concat_tables([part.payload for part in parts])
    return np.concatenate([part.old for part in parts]), ids, payload
