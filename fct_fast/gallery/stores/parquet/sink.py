"""Writing a gallery as Parquet: one file, or a folder with one `part-NNNNNN.parquet` a shard.

The digest of a shard is the SHA-256 of its part file, every byte of it. A single file is the parts' data one after the
other under one footer, from which each part comes out again as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from fct_fast.errors import ConfigError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.npy import space_bytes
from fct_fast.gallery.stores.parquet.dataset import parse_space
from fct_fast.gallery.stores.parquet.parts import PartFormat
from fct_fast.gallery.stores.parquet.placement import FilePlacement, FolderPlacement, Placement, occupied
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.protocol import Array, Capabilities, Layout, Loaded, Shard
from fct_fast.space import SpaceFingerprint

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ParquetSink"]


class ParquetSink:
    """See `protocol.Sink`. A path that ends in .parquet is one file, one without an ending a folder. Raises ConfigError
    for what Parquet cannot keep."""

    capabilities = Capabilities(atomic_swap=True, ids=True, payload=True, snapshot=False)
    held_bytes = 0
    build_seconds = 0.0
    notes: Sequence[str] = ()

    def __init__(self, place: Place, layout: Layout, token: str, fs: FileSystem) -> None:
        path = place.path
        self._place, self._single = place, path.suffix == ".parquet"
        if path.suffix in (".arrow", ".feather"):
            raise ConfigError(f"{place} is read but not written; choose a sink that ends in .parquet, or a folder")
        self._format = PartFormat(place, layout)
        self._at: Placement = (FilePlacement if self._single else FolderPlacement)(path, token, layout, fs)

    @property
    def place(self) -> str:
        return str(self._place)

    @property
    def free_bytes(self) -> int | None:
        """Of a single file a half, since the parts stay until they are joined."""
        parent = next(folder for folder in self._at.path.parents if folder.is_dir())
        with contextlib.suppress(OSError):
            stat = os.statvfs(parent)
            if stat.f_blocks:
                return stat.f_bavail * stat.f_frsize // (2 if self._single else 1)
        return None

    def refuse_existing(self) -> None:
        if occupied(self._at.path):
            raise StoreError(f"{self._at.path} already exists and is not of this job; remove it or choose another sink")

    def begin(self) -> None:
        self._at.begin()

    def write(self, shard: Shard, new: Array, ids: Array | None, payload: pa.Table | None) -> bytes:
        data = memoryview(self._format.encode(new, ids, payload)).cast("B")
        self._at.put(shard, data)
        return hashlib.sha256(data).digest()

    def load(self, shard: Shard) -> Loaded:
        return self._format.decode(self._at.get(shard), shard.rows, self._at.file(shard))

    def fault(self, shards: Collection[int]) -> str | None:
        return self._at.fault(shards) if shards else None

    def where(self, shard: Shard) -> str:
        return f"{self._at.file(shard)}, rows {shard.start} to {shard.stop - 1}"

    def publish(self, space: SpaceFingerprint | None) -> None:
        self._at.publish(None if space is None else space_bytes(space))

    @property
    def published(self) -> bool:
        return self._at.published

    @property
    def space(self) -> SpaceFingerprint | None:
        found = self._at.space()
        return None if found is None else parse_space(found[0], str(found[1]))

    def state(self) -> str:
        sha, path = hashlib.sha256(), self._at.path
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.exists():
                stat = file.stat()
                sha.update(os.fsencode(file.name) + b"\0%d %d\0" % (stat.st_size, stat.st_mtime_ns))
        return sha.hexdigest()

    def close(self) -> None:
        pass
