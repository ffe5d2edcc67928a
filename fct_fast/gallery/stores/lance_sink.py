"""Writing a new Lance dataset: all shards are one version, which appears in one rename.

The dataset is made in `NAME.partial-TOKEN` beside its place; see `lance_staging`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from fct_fast.errors import CorruptError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.lance_files import clear_folder, told, wrong_size
from fct_fast.gallery.stores.lance_published import Published
from fct_fast.gallery.stores.lance_staging import Staging
from fct_fast.gallery.stores.lance_table import LanceTable, read_space, stamped
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.protocol import Array, Capabilities, Layout, Loaded, Shard
from fct_fast.space import SpaceFingerprint

__all__ = ["LanceSink"]

VECTOR_COLUMN = "embedding"


class LanceSink:
    """A new Lance dataset, which appears at `path`; see `protocol.Sink`."""

    capabilities = Capabilities(atomic_swap=True, ids=True, payload=True, snapshot=True)
    held_bytes = 0
    build_seconds = 0.0

    def __init__(self, place: Place, path: Path, layout: Layout, token: str, fs: FileSystem) -> None:
        self._place, self._path, self._layout, self._token, self._fs = place, path, layout, token, fs
        storage = str(layout.form.get("storage", ""))  # as the source has it, where that is no longer Lance's first one
        known = storage if storage.startswith("2.") else None
        self._staging = Staging(path.with_name(f"{path.name}.partial-{token}"), layout, known, fs)

    @cached_property
    def _table(self) -> LanceTable:
        vector = self._place.column or str(self._layout.form.get("vector") or VECTOR_COLUMN)
        return LanceTable.of(self._layout, vector, str(self._place))

    def require_columns(self) -> None:
        """Raise ConfigError for columns that Lance cannot keep."""
        _ = self._table

    @property
    def place(self) -> str:
        return str(self._place)

    @property
    def free_bytes(self) -> int | None:
        parent = next(folder for folder in self._path.parents if folder.is_dir())
        with contextlib.suppress(OSError):
            stat = os.statvfs(parent)
            if stat.f_blocks:
                return stat.f_bavail * stat.f_frsize
        return None

    @property
    def notes(self) -> Sequence[str]:
        indices = self._layout.form.get("indices", ())
        return [f"The index {index} is not carried over; build it on the new gallery." for index in indices]

    def refuse_existing(self) -> None:
        if _occupied(self._path):
            raise StoreError(f"{self._path} already exists and is not of this job; remove it or choose another sink")

    def begin(self) -> None:
        self._fs.make_folder(self._path.parent)
        self._fs.flush_folder(self._path.parent)  # a process that was killed may have renamed without
        if not (self.published or self._renamed()):
            self._staging.begin()

    def write(self, shard: Shard, new: Array, ids: Array | None, payload: pa.Table | None) -> bytes:
        with told(f"cannot bring a shard into the columns of {self._place}", "check the payload columns"):
            table = self._table.fill(new, ids, payload, self._kept(shard))
        self._staging.put(shard, table)
        return self._table.digest(table)

    def load(self, shard: Shard) -> Loaded:
        where = self.where(shard)
        with told(f"cannot read {where}", "restore it, or compute it anew"):
            table = self._shards().table(shard)
        if table.num_rows != shard.rows:
            raise CorruptError(f"{where} has {table.num_rows} rows, not the {shard.rows} that were written")
        return self._table.loaded(table, self._layout, where)

    def fault(self, shards: Collection[int]) -> str | None:
        try:
            files = self._shards().files(shards)
        except StoreError as error:
            return str(error)
        for index in shards:
            if index not in files:
                return f"{self.where(self._layout.shard(index))} is missing, but it was committed"
            sentence = wrong_size(*files[index])
            if sentence:
                return sentence
        return None

    def where(self, shard: Shard) -> str:
        root = self._home() if self._landed() else self._staging.folder
        return f"{root}, rows {shard.start} to {shard.stop - 1}"

    def publish(self, space: SpaceFingerprint | None) -> None:
        if self.published:
            return
        if not self._renamed():
            if _occupied(self._path):
                raise StoreError(
                    f"{self._path} appeared while the job ran; move it away and run the same command again"
                )
            schema = stamped(self._table.schema, self._table.vector, space, self._stamp())
            self._staging.commit(schema, stable_row_ids=self._stable_row_ids())
            self._fs.publish(self._staging.root, self._path)
        clear_folder(self._staging.folder, self._fs)

    @property
    def published(self) -> bool:
        return _occupied(self._path) and not self._staging.folder.exists()

    @property
    def space(self) -> SpaceFingerprint | None:
        dataset = self._open().dataset
        with told(f"cannot read the columns of {self._place}"):
            field = dataset.schema.field(self._table.vector)
        return read_space(field, self.place)

    def state(self) -> str:
        return self._open().state()

    def close(self) -> None:
        self.__dict__.pop("_opened", None)

    def _open(self) -> Published:
        """What was published, as it is now."""
        return Published(self._home(), self._layout, self._fs)

    @cached_property
    def _opened(self) -> Published:
        """What was published, opened once for many shards."""
        return self._open()

    def _shards(self) -> Staging | Published:
        """Where the shards are at this moment."""
        return self._opened if self._landed() else self._staging

    def _home(self) -> Path:
        """The folder of the dataset once it is published."""
        return self._path

    def _landed(self) -> bool:
        """Whether the dataset is at its final place."""
        return not self._staging.root.exists() and _occupied(self._path)

    def _renamed(self) -> bool:
        """Whether it is there while its staging folder is not removed yet."""
        return self._landed() and self._staging.folder.exists()

    def _kept(self, shard: Shard) -> pa.Table | None:
        """Columns beside ids, vectors and payload, which a shard gets from elsewhere."""
        return None

    def _stamp(self) -> dict[bytes, bytes]:
        """What is put into the metadata of the schema."""
        return {}

    def _stable_row_ids(self) -> bool:
        return bool(self._layout.form.get("stable_row_ids"))


def _occupied(path: Path) -> bool:
    """Whether something is there; an empty folder is a place to write to."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))
