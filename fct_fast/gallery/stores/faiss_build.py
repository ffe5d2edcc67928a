"""Building an IVF or HNSW index from rows that lie in a Flat one: equal rows give an equal index, byte for byte.

FAISS seeds what it draws, so that an IVF is the same whatever the number of threads; and since 1.15.1 the graph of HNSW
is, too. Before, threads linked rows in the order in which they got to run, and only one thread gives one graph.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from fct_fast.errors import StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.faiss_flat import FlatFile
from fct_fast.gallery.stores.faiss_kind import Kind
from fct_fast.gallery.stores.faiss_layout import read_index_layout
from fct_fast.gallery.stores.faiss_rows import IndexRows
from fct_fast.gallery.stores.protocol import spread

__all__ = ["TRAINED", "build_index", "build_threads", "write_index"]

I64 = npt.NDArray[np.int64]

TRAINED = 256  # rows a list that k-means looks at; FAISS would draw as many from more
_METRICS = {"ip": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
_BATCH = 64 << 20  # bytes of rows that are added to lists at once
_BLOCK = 4 << 20  # bytes that are written at once
_SAME_GRAPH = (1, 15, 1)


def build_threads(kind: Kind) -> int:
    """How many threads build an index of this kind, and build the same one as any other number."""
    version = tuple(map(int, re.findall(r"\d+", faiss.__version__)[:3]))
    return int(faiss.omp_get_max_threads()) if version >= _SAME_GRAPH or not kind.neighbours else 1


def build_index(kind: Kind, rows: FlatFile, path: Path, fs: FileSystem) -> tuple[Any, I64 | None]:
    """The FAISS index of all rows of the Flat file at `path`, and the ids of these rows in their order.

    Raises StoreError where they cannot be read or memory does not suffice.
    """
    try:
        with _threads(build_threads(kind)):
            return _built(kind, rows, path, fs)
    except MemoryError as error:
        raise StoreError(
            f"memory does not suffice to build {kind.factory} from {path}; run the same command on a larger machine"
        ) from error


def _built(kind: Kind, rows: FlatFile, path: Path, fs: FileSystem) -> tuple[Any, I64 | None]:
    index = faiss.index_factory(rows.dim, kind.factory, _METRICS[kind.metric])
    inner = faiss.downcast_index(index.index) if kind.id_map else index
    for name, value in kind.settings.items():
        setattr(inner if kind.lists else inner.hnsw, name, value)
    batch = rows.rows  # the graph of HNSW comes out best when it is built at once
    if kind.lists:
        batch = max(1, _BATCH // (4 * rows.dim))
        inner.cp.min_points_per_centroid = 1  # few rows are no reason for a warning on stderr
        stored = IndexRows(read_index_layout(path, fs), path, fs)
        index.train(stored.take(spread(rows.rows, TRAINED * kind.lists)))
    order = []
    for start in range(0, rows.rows, batch):
        part, ids = rows.read(path, fs, start, min(start + batch, rows.rows))
        if ids is None:
            index.add(part)
        else:
            index.add_with_ids(part, ids)
            order.append(ids)
    return index, np.concatenate(order) if order else None


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def write_index(index: Any, path: Path, fs: FileSystem) -> str:
    """Write an index as the file `path`, anew, and put it on disk; returns its SHA-256 (hex). Raises StoreError."""
    sha, block, size = hashlib.sha256(), bytearray(), 0
    fs.remove(path)
    fd = fs.open_file(path, write=True)

    def put(data: bytes) -> None:
        nonlocal size
        block.extend(data)
        if len(block) >= _BLOCK or not data:
            fs.write_at(fd, path, block, size)
            sha.update(block)
            size += len(block)
            block.clear()

    try:
        faiss.write_index(index, faiss.PyCallbackIOWriter(put, _BLOCK))  # what `put` raises comes out
        put(b"")
        fs.flush(fd, path)
    finally:
        fs.close_file(fd, path)
    return sha.hexdigest()
