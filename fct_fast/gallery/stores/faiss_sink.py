"""Writing a gallery as a FAISS index file.

Rows go to their places in a Flat index beside the final one (`faiss_flat`). Where Flat is what was asked for, that file
is renamed at the end; else an IVF or HNSW index is built from it, and it is removed. At each moment one file holds all
that was committed, and the names that are there tell which:

    new.faiss.rows.partial-TOKEN    the rows, while another index is to be built from them
    new.faiss.partial-TOKEN         the finished index; of a Flat one, also while rows are written
    new.faiss.sha256                of what was built: its digest, since the rows alone do not vouch for a graph
    new.faiss.ids.npy               where the lists of an IVF keep ids that did not rise: the ids in the order of rows
    new.space.json, new.faiss       the fingerprint, and last the gallery
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
from fct_fast.gallery.stores.faiss_source import beside_space
from fct_fast.gallery.stores.npy import read_space, space_bytes
from fct_fast.gallery.stores.npy_column import byte_view, space_path
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
        self._path, self._layout, self._token, self._fs = absolute(place.path), layout, token, fs
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
        self._digest, self._order, self._rows = (
            self._path.with_name(self._path.name + ending) for ending in (".sha256", ".ids.npy", ".rows")
        )
        self._space = space_path(beside_space(self._path))
        self._open: tuple[Path, int] | None = None
        self._built: tuple[tuple[int, ...], BuiltIndex] | None = None

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
        for path in self._finals():
            if path.exists():
                raise StoreError(f"{path} already exists and is not of this job; remove it or choose another sink")

    def begin(self) -> None:
        self._fs.make_folder(self._path.parent)
        self._fs.flush_folder(self._path.parent)  # a process that was killed may have renamed without
        if self.published:
            return
        started = tuple(f".{self._partial(path).name}." for path in (*self._finals(), self._rows))
        for path in self._path.parent.iterdir():  # of a process that was killed
            if path.name.startswith(started) and path.name.endswith(".tmp"):
                self._fs.remove(path)
        path, flat = self._current()
        if flat:
            self._flat.create(path, self._fs)

    def write(self, shard: Shard, new: Array, ids: Array | None, payload: pa.Table | None) -> bytes:
        path, flat = self._current()
        if not flat:
            raise StoreError(
                f"{path} is finished, and rows of a built index are not written again; delete it and the job, and run "
                f"the same command"
            )
        if not self._kind.flat:
            self._fs.remove(self._partial(self._path))  # it was built from other rows
        if self._open is None or self._open[0] != path:
            self.close()
            self._open = path, self._fs.open_file(path, write=True)
        rows = np.ascontiguousarray(new, np.float32)
        numbers = None if ids is None else self._as_int64(ids)
        self._flat.write(self._open[1], path, self._fs, shard.start, rows, numbers)
        return _digest(rows, numbers)

    def load(self, shard: Shard) -> Loaded:
        path, flat = self._current()
        if flat:
            rows, ids = self._flat.read(path, self._fs, shard.start, shard.stop)
        else:
            rows, ids = self._read_built(path).read(shard.start, shard.stop)
        kept = self._layout.ids_dtype
        if kept is None or ids is None:
            return Loaded(rows, None, None, _digest(rows, None))
        return Loaded(rows, ids.astype(kept), None, _digest(rows, ids))

    def fault(self, shards: Collection[int]) -> str | None:
        path, flat = self._current()
        needed = self._layout.rows * self._layout.row_bytes
        if flat:
            needed = self._flat.size(self._layout.shard(max(shards)).stop if shards else 0)
        size = path.stat().st_size if path.exists() else 0
        return f"{path} has {size} bytes, but at least {needed} were committed" if size < needed else None

    def where(self, shard: Shard) -> str:
        return f"{self._current()[0]}, rows {shard.start} to {shard.stop - 1}"

    def publish(self, space: SpaceFingerprint | None) -> None:
        if self.published:
            return
        self.close()
        self._refuse_other(self._path)
        staged, partial = self._partial(self._rows), self._partial(self._path)
        if staged.exists():
            if not partial.exists():
                self._build(staged, partial)
            self._fs.remove(staged)
            self._fs.flush_folder(self._path.parent)
        if space is not None:
            self._fs.write_atomic(self._partial(self._space), space_bytes(space))
        for final in self._finals():
            partial = self._partial(final)
            if not partial.exists():
                continue
            if final != self._path and final.exists() and final.read_bytes() == partial.read_bytes():
                self._fs.remove(partial)  # there since a crash between two renames
                continue
            self._refuse_other(final)
            self._fs.publish(partial, final)

    @property
    def published(self) -> bool:
        return self._path.exists() and not any(self._partial(path).exists() for path in (self._path, self._rows))

    @property
    def space(self) -> SpaceFingerprint | None:
        return read_space(beside_space(self._path), self._fs)

    def state(self) -> str:
        sha = hashlib.sha256()
        for path in self._finals():
            if path.exists():
                stat = path.stat()
                sha.update(os.fsencode(path.name) + b"\0%d %d\0" % (stat.st_size, stat.st_mtime_ns))
        return sha.hexdigest()

    def close(self) -> None:
        if self._open is not None:
            (path, fd), self._open = self._open, None
            self._fs.close_file(fd, path)

    def _build(self, staged: Path, partial: Path) -> None:
        index, ids = build_index(self._kind, self._flat, staged, self._fs)
        temp, sha, size = partial.with_name(f".{partial.name}.built.tmp"), hashlib.sha256(), 0
        self._fs.remove(temp)
        fd = self._fs.open_file(temp, write=True)

        def write(data: bytes) -> None:
            nonlocal size
            self._fs.write_at(fd, temp, data, size)
            sha.update(data)
            size += len(data)

        try:
            write_index(index, write)
            self._fs.flush(fd, temp)
        finally:
            self._fs.close_file(fd, temp)
        if ids is not None and self._kind.own_ids and not (ids[1:] > ids[:-1]).all():
            self._fs.write_atomic(self._partial(self._order), npy_header(ids.dtype, ids.shape), byte_view(ids))
        self._fs.write_atomic(self._partial(self._digest), digest_line(sha.hexdigest(), self._path.name))
        self._fs.publish(temp, partial)

    def _read_built(self, path: Path) -> BuiltIndex:
        """The index at `path`, looked through once, and again when it has changed."""
        digest, order = (self._partial(final) for final in (self._digest, self._order))
        digest, order = (digest if digest.exists() else self._digest), (order if order.exists() else self._order)
        stat = path.stat()
        seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if self._built is None or self._built[0] != seen:
            self._built = None
            self._built = seen, BuiltIndex(path, digest, order if order.exists() else None, self._fs)
        return self._built[1]

    def _as_int64(self, ids: Array) -> npt.NDArray[np.int64]:
        numbers = np.ascontiguousarray(ids, np.int64)
        if ids.dtype.kind == "u" and (numbers < 0).any():
            raise StoreError(
                f"{self._path} cannot keep the id {ids.max()}, as those of FAISS are signed 64-bit integers"
            )
        return numbers

    def _current(self) -> tuple[Path, bool]:
        """The file that holds the rows at this moment, and whether it is the Flat one that they were written to."""
        partial = self._partial(self._path)
        if self._kind.flat:
            return (self._path if self._path.exists() and not partial.exists() else partial), True
        staged = self._partial(self._rows)
        if staged.exists() or not (partial.exists() or self._path.exists()):
            return staged, True
        return (partial if partial.exists() else self._path), False

    def _finals(self) -> list[Path]:
        """What appears at the end, the gallery itself last."""
        return [*([] if self._kind.flat else [self._digest, self._order]), self._space, self._path]

    def _partial(self, final: Path) -> Path:
        return final.with_name(f"{final.name}.partial-{self._token}")

    def _refuse_other(self, final: Path) -> None:
        if final.exists():
            raise StoreError(f"{final} appeared while the job ran; move it away and run the same command again")


def _digest(rows: Array, ids: Array | None) -> bytes:
    sha = hashlib.sha256(byte_view(rows))
    if ids is not None:
        sha.update(byte_view(ids))
    return sha.digest()
