"""A dataset that a sink has published, shard by shard."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa

from fct_fast.errors import CorruptError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.lance_files import (
    CHECKSUMS,
    content_of,
    data_files,
    open_dataset,
    require_digest,
    scan,
    told,
)
from fct_fast.gallery.stores.protocol import Layout, Shard

__all__ = ["Published"]


FIRST = 1  # the version that a new dataset begins with


class Published:
    """The dataset at `root`: the version `version`, or its latest, where the gallery was committed as the first.

    checksums: of its files, as the commit holds them; none where somebody removed that version, then the digests of
    the ledger remain.
    """

    def __init__(self, root: Path, layout: Layout, fs: FileSystem, version: int | None = None) -> None:
        self.root, self._layout, self._fs = root, layout, fs
        self.dataset = open_dataset(root, version)
        with told(f"cannot read the fragments of {root}"):
            self._fragments = self.dataset.get_fragments()
            files = data_files(self.dataset, root)
        self._files, self._sizes = list(files), list(files.values())
        self.checksums = ""
        with contextlib.suppress(StoreError), told(f"cannot read the checksums of {root}"):
            commit = self.dataset.read_transaction(version or FIRST)
            self.checksums = (commit.transaction_properties or {}).get(CHECKSUMS, "")

    def table(self, shard: Shard) -> pa.Table:
        """All columns of a shard. Raises CorruptError where fragments were added or taken away, or files changed."""
        if not len(self._fragments) == len(self._files) == self._layout.shards:
            raise CorruptError(
                f"{self.root} has {len(self._fragments)} fragments, not the {self._layout.shards} written"
            )
        checksums = self.checksums.split()
        if len(checksums) == len(self._files):
            require_digest(self._files[shard.index], checksums[shard.index], self._fs)
        return scan(self._fragments[shard.index])

    def files(self, shards: Collection[int]) -> dict[int, tuple[Path, int | None]]:
        """Files of some shards and the sizes that they must have, as far as they are there."""
        return {index: (self._files[index], self._sizes[index]) for index in shards if index < len(self._files)}

    def state(self) -> str:
        """Of the columns, fragments and files: an index or a tag that is added changes no row."""
        sha = hashlib.sha256(content_of(self.dataset).encode())
        for path in self._files:
            stat = path.stat() if path.exists() else None
            sha.update(b"gone\0" if stat is None else b"%d %d\0" % (stat.st_size, stat.st_mtime_ns))
        return sha.hexdigest()
