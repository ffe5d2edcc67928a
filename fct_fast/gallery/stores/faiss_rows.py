"""Rows of a FAISS index file, fetched from where they lie: memory is bounded by what is asked for, not by the index."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.faiss_codec import Codec
from fct_fast.gallery.stores.faiss_layout import Index
from fct_fast.gallery.stores.npy_column import byte_view

__all__ = ["IndexRows"]

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

_GAP = 16 << 10  # bytes between two wanted rows that are read along: a system call costs as much
_RUN = 16 << 20  # bytes that are read at once
_DECODED = 16384  # rows that are decoded at once


class IndexRows:
    """Rows by slot: the number of a row in the order in which the file holds them, list after list."""

    def __init__(self, index: Index, path: Path, fs: FileSystem) -> None:
        self._index, self._path, self._fs = index, path, fs
        self._starts = np.cumsum(index.sizes) - index.sizes
        self.codec = Codec(index, path, fs)

    def list_ids(self) -> I64:
        """The ids that the lists of an IVF hold, by slot [rows]."""
        index = self._index
        assert index.id_offsets is not None
        ids = np.empty(index.rows, np.int64)
        view = byte_view(ids)
        fd = self._fs.open_file(self._path)
        try:
            for start, size, offset in zip(self._starts, index.sizes, index.id_offsets, strict=True):
                self._fs.read_at(fd, self._path, view[8 * start : 8 * (start + size)], int(offset))
        finally:
            self._fs.close_file(fd, self._path)
        return ids

    def read(self, start: int, stop: int) -> F32:
        """Rows of slots start to stop; [n, dim]."""
        index = self._index
        if len(index.sizes) > 1 or not self.codec.plain:
            return self.take(np.arange(start, stop))
        rows = np.empty((stop - start, index.dim), np.float32)
        fd = self._fs.open_file(self._path)
        try:
            self._fs.read_at(fd, self._path, byte_view(rows), int(index.offsets[0]) + start * index.code_size)
        finally:
            self._fs.close_file(fd, self._path)
        return rows

    def take(self, slots: I64) -> F32:
        """Rows of some slots, in the order given; [n, dim]."""
        rows = np.empty((len(slots), self._index.dim), np.float32)
        fd = self._fs.open_file(self._path)
        try:
            for start in range(0, len(slots), _DECODED):
                part = slots[start : start + _DECODED]
                lists = self._lists(part)
                rows[start : start + len(part)] = self.codec.decode(self._codes(fd, part, lists), lists)
        finally:
            self._fs.close_file(fd, self._path)
        return rows

    def codes(self, slots: I64) -> U8:
        """The codes of some slots as the file holds them; [n, code_size]."""
        fd = self._fs.open_file(self._path)
        try:
            return self._codes(fd, slots, self._lists(slots))
        finally:
            self._fs.close_file(fd, self._path)

    def _lists(self, slots: I64) -> I64:
        return np.searchsorted(self._starts, slots, "right") - 1

    def _codes(self, fd: int, slots: I64, lists: I64) -> U8:
        """Neighbours are read together."""
        size = self._index.code_size
        places = self._index.offsets[lists] + (slots - self._starts[lists]) * size
        order = np.argsort(places, kind="stable")
        places = places[order]
        apart = (np.diff(places) > size + _GAP) | (np.diff(places // _RUN) > 0)
        bounds = [0, *(np.flatnonzero(apart) + 1).tolist(), len(slots)]
        codes = np.empty((len(slots), size), np.uint8)
        for low, high in itertools.pairwise(bounds if len(slots) else [0]):
            first = int(places[low])
            run = np.empty(int(places[high - 1]) - first + size, np.uint8)
            self._fs.read_at(fd, self._path, byte_view(run), first)
            codes[order[low:high]] = np.lib.stride_tricks.sliding_window_view(run, size)[places[low:high] - first]
        return codes
