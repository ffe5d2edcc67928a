"""Writing a gallery as a FAISS index file.

Rows go to their places in a Flat index beside the final one (`faiss_flat`). Where Flat is what was asked for, that file
is renamed at the end; else an IVF or HNSW index is built from it, and it is removed (`faiss_names` has the steps).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.faiss_build import build_index, build_threads, write_index
from fct_fast.gallery.stores.faiss_built import BuiltIndex, digest_line
from fct_fast.gallery.stores.faiss_cost import build_bytes, build_seconds, index_bytes
from fct_fast.gallery.stores.faiss_flat import FlatFile
from fct_fast.gallery.stores.faiss_kind import Kind
from fct_fast.gallery.stores.faiss_names import Names, beside_space
from fct_fast.gallery.stores.npy import read_space, space_bytes
from fct_fast.gallery.stores.npy_column import byte_view
from fct_fast.gallery.stores.npy_format import npy_header
from fct_fast.gallery.stores.place import Place, absolute
from fct_fast.gallery.stores.protocol import Array, Capabilities, Layout, Loaded, Shard
from fct_fast.space import SpaceFingerprint

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FaissSink"]


class FaissSink:
    """A gallery in a FAISS index file; see `protocol.Sink`. Raises ConfigError for rows or ids that FAISS cannot keep
    and for kinds of index that are not written."""

    capabilities = Capabilities(atomic_swap=True, ids=True, payload=False, snapshot=False)

    def __init__(self, place: Place, layout: Layout, token: str, fs: FileSystem) -> None:
        self._path, self._layout, self._fs = absolute(place.path), layout, fs
        self._options = place.options
        if layout.dtype != np.float32:
            raise ConfigError(
                f"{self._path} cannot keep {layout.dtype} rows, as FAISS has float32; use out_dtype='float32'"
            )
        if layout.ids_dtype is not None and layout.ids_dtype.kind not in "iu":
            raise ConfigError(
                f"{self._path} cannot keep ids of {layout.ids_dtype}, as those of FAISS are 64-bit integers; choose "
                f"another store, or number the rows"
            )
        self._kind = kind = Kind.of(place, layout)
        ids = (kind.id_map or "IDMap") if layout.ids_dtype is not None else ""
        self._flat = FlatFile(layout.rows, layout.dim, kind.metric, ids)
        self._names = Names(self._path, token, kind.flat)
        self._open: tuple[Path, int] | None = None
        self._built: tuple[list[tuple[int, int, int]], BuiltIndex] | None = None
        self._again: set[int] = set()  # shards that were written again after an index had been built

    @property
    def place(self) -> str:
        return str(Place(str(self._path), self._options))

    @property
    def free_bytes(self) -> int | None:
        """Without those that building an index takes beside the rows."""
        parent = next(folder for folder in self._path.parents if folder.is_dir())
        with contextlib.suppress(OSError):
            stat = os.statvfs(parent)
            if stat.f_blocks:
                built = 0 if self._kind.flat else index_bytes(self._kind, self._layout.rows, self._layout.dim)
                return max(0, stat.f_bavail * stat.f_frsize - built)
        return None

    @property
    def held_bytes(self) -> int:
        return build_bytes(self._kind, self._layout.rows, self._layout.dim)

    @property
    def build_seconds(self) -> float:
        return build_seconds(self._kind, self._layout.rows, self._layout.dim)

    @property
    def notes(self) -> Sequence[str]:
        if self._kind.flat or build_threads(self._kind) > 1:
            return ()
        return (f"{self._path} is built by one thread, so that equal rows give an equal index (FAISS before 1.15.1).",)

    def refuse_existing(self) -> None:
        for path in self._names.finals:
            if path.exists():
                raise StoreError(f"{path} already exists and is not of this job; remove it or choose another sink")

    def begin(self) -> None:
        self._fs.make_folder(self._path.parent)
        self._fs.flush_folder(self._path.parent)  # a process that was killed may have renamed without
        for path in self._names.leftovers():
            self._fs.remove(path)
        if not self.published:
            path, flat = self._names.holder()
            if flat:
                self._open_rows(path)

    def write(self, shard: Shard, new: Array, ids: Array | None, payload: pa.Table | None) -> bytes:
        path, flat = self._names.holder()
        if flat and not self._kind.flat:
            self._fs.remove(self._names.partial(self._path))  # it was built from other rows
        rows = np.ascontiguousarray(new, np.float32)
        numbers = None if ids is None else self._as_int64(ids)
        path = path if flat else self._names.again
        self._flat.write(self._open_rows(path), path, self._fs, shard.start, rows, numbers)
        if not flat:
            self._build_again(shard)
        return _digest(rows, numbers)

    def load(self, shard: Shard) -> Loaded:
        path, flat = self._names.holder()
        if flat:
            rows, ids = self._flat.read(path, self._fs, shard.start, shard.stop)
        else:
            rows, ids = self._read_built(path).read(shard.start, shard.stop)
        kept = self._layout.ids_dtype
        if kept is None or ids is None:
            return Loaded(rows, None, None, _digest(rows, None))
        return Loaded(rows, ids.astype(kept), None, _digest(rows, ids))

    def fault(self, shards: Collection[int]) -> str | None:
        path, flat = self._names.holder()
        needed = self._layout.rows * self._layout.row_bytes
        if flat:
            needed = self._flat.size(self._layout.shard(max(shards)).stop if shards else 0)
        size = path.stat().st_size if path.exists() else 0
        return f"{path} has {size} bytes, but at least {needed} were committed" if size < needed else None

    def where(self, shard: Shard) -> str:
        return f"{self._names.holder()[0]}, rows {shard.start} to {shard.stop - 1}"

    def publish(self, space: SpaceFingerprint | None) -> None:
        if self.published:
            return
        self.close()
        self._refuse_other(self._path)
        names = self._names
        if names.rows.exists():
            if not names.partial(self._path).exists():
                self._build(names.rows)
            self._fs.remove(names.rows)
            self._fs.flush_folder(self._path.parent)
        if space is not None:
            self._fs.write_atomic(names.partial(names.space), space_bytes(space))
        for final in names.finals:
            partial = names.partial(final)
            if not partial.exists():
                continue
            if final != self._path and final.exists() and final.read_bytes() == partial.read_bytes():
                self._fs.remove(partial)  # there since a crash between two renames
                continue
            self._refuse_other(final)
            self._fs.publish(partial, final)

    @property
    def published(self) -> bool:
        return self._names.published

    @property
    def space(self) -> SpaceFingerprint | None:
        return read_space(beside_space(self._path), self._fs)

    def state(self) -> str:
        sha = hashlib.sha256()
        for path in self._names.finals:
            if path.exists():
                stat = path.stat()
                sha.update(os.fsencode(path.name) + b"\0%d %d\0" % (stat.st_size, stat.st_mtime_ns))
        return sha.hexdigest()

    def close(self) -> None:
        if self._open is not None:
            (path, fd), self._open = self._open, None
            self._fs.close_file(fd, path)

    def _open_rows(self, path: Path) -> int:
        if self._open is None or self._open[0] != path:
            self.close()
            self._open = path, self._flat.open(path, self._fs)
        return self._open[1]

    def _build(self, rows: Path) -> None:
        """Build the index from a Flat one, and put it in the place of the unfinished one, or of one that was damaged:
        there, equal rows give the index that it was."""
        names, finished = self._names, self.published
        index, ids = build_index(self._kind, self._flat, rows, self._fs)
        partial = names.partial(self._path)
        temp = partial.with_name(f".{partial.name}.built.tmp")
        digest = write_index(index, temp, self._fs)
        self._fs.write_atomic(names.partial(names.digest), digest_line(digest, self._path.name))
        if ids is not None and self._kind.own_ids and not (ids[1:] > ids[:-1]).all():
            self._fs.write_atomic(names.partial(names.order), npy_header(ids.dtype, ids.shape), byte_view(ids))
        if finished:
            for note in (names.digest, names.order):
                if names.partial(note).exists():
                    self._fs.publish(names.partial(note), note)
        self._fs.publish(temp, self._path if finished else partial)

    def _build_again(self, shard: Shard) -> None:
        """Once all rows of a built index that was damaged have been written again, build it again."""
        self._again.add(shard.index)
        if len(self._again) == self._layout.shards:
            self.close()
            self._build(self._names.again)
            self._fs.remove(self._names.again)
            self._again.clear()

    def _read_built(self, path: Path) -> BuiltIndex:
        """The index at `path`, looked through once, and again when a file of it has changed."""
        digest, order = (self._names.current(final) for final in (self._names.digest, self._names.order))
        stats = [file.stat() for file in (path, digest, order) if file.exists()]
        seen = [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]
        if self._built is not None and self._built[0] == seen:
            return self._built[1]
        self._built = None  # so that two are never held at once
        found = BuiltIndex(path, (digest, self._path.name), order if order.exists() else None, self._fs)
        self._built = seen, found
        return found

    def _as_int64(self, ids: Array) -> npt.NDArray[np.int64]:
        numbers = np.ascontiguousarray(ids, np.int64)
        if ids.dtype.kind == "u" and (numbers < 0).any():
            raise StoreError(
                f"{self._path} cannot keep the id {ids.max()}, as those of FAISS are signed 64-bit integers"
            )
        return numbers

    def _refuse_other(self, final: Path) -> None:
        if final.exists():
            raise StoreError(f"{final} appeared while the job ran; move it away and run the same command again")


def _digest(rows: Array, ids: Array | None) -> bytes:
    sha = hashlib.sha256(byte_view(rows))
    if ids is not None:
        sha.update(byte_view(ids))
    return sha.digest()
