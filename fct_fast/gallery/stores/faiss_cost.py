"""What building an index takes: bytes on disk, memory, and an estimate of the time."""

from __future__ import annotations

import math

from fct_fast.gallery.stores.faiss_build import TRAINED, build_threads
from fct_fast.gallery.stores.faiss_kind import Kind

__all__ = ["build_bytes", "build_seconds", "index_bytes"]

# Measured with faiss-cpu 1.15.1 on one core of an AMD EPYC with AVX2: of unit rows, 32 to 768 values, 10,000 to 40,000
# of them. Other machines differ; a plan only has to tell minutes from hours.
_ROUNDS = 10  # of k-means, FAISS's number for an IVF
_COMPARED = 6e-11  # seconds to compare a value of a row with one of a list's centre
_LINKED, _LINKED_VALUE = 30e-6, 0.43e-6  # seconds to link a row of a graph of 10,000, and more for each of its values
_GROWTH = 0.3  # ... more of it with each doubling of the rows
_SEARCHED = 40  # rows looked through for the neighbours of one, FAISS's default efConstruction


def index_bytes(kind: Kind, rows: int, dim: int) -> int:
    """The size of an index, nearly: rows, ids, centres, and links to twice as many neighbours of each node."""
    nodes = (kind.lists or rows) if kind.neighbours else 0
    return rows * (4 * dim + 8) + 4 * kind.lists * dim + nodes * (8 * kind.neighbours + 32)


def build_bytes(kind: Kind, rows: int, dim: int) -> int:
    """Memory that building needs: an index and the rows it is built from, at once or in lists that grow by doubling."""
    if kind.flat:
        return 0
    return 2 * index_bytes(kind, rows, dim) + 2 * 4 * dim * min(rows, TRAINED * kind.lists)


def build_seconds(kind: Kind, rows: int, dim: int) -> float:
    """An estimate, with as many threads as will build."""
    if kind.flat:
        return 0.0
    nodes = kind.lists or rows
    size = max(1.0, 1 + _GROWTH * math.log2(nodes / 10_000))
    linked = (_LINKED + _LINKED_VALUE * dim) * size * kind.settings.get("efConstruction", _SEARCHED) / _SEARCHED
    if not kind.lists:
        return rows * linked / build_threads(kind)
    compared = kind.lists * dim * _COMPARED
    trained = _ROUNDS * min(rows, TRAINED * kind.lists) * compared
    return (trained + rows * (linked if kind.neighbours else compared)) / build_threads(kind)
