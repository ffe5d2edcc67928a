"""A dataset in the making: shards as fragments that no version has yet, each with a record beside its file.

Lance writes the file; what makes it count is the record: the fragment as Lance describes it, and the checksum of the
file. Committing makes all fragments one version, in the order of the shards, and can be done anew from the records.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
from lance.file import LanceFileReader
from lance.fragment import FragmentMetadata, write_fragments

from fct_fast.errors import CorruptError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.lance_files import CHECKSUMS, clear_folder, file_digest, flush, require_digest, told
from fct_fast.gallery.stores.protocol import Layout, Shard
from fct_fast.space import canonical_json

__all__ = ["Staging"]

FULL = "free some space and run the same command again"


@dataclass(frozen=True)
class Record:
    """A shard: its fragment, which is all in one file, and the SHA-256 of that file."""

    fragment: Any
    sha256: str

    @property
    def name(self) -> str:
        """Of the file."""
        return str(self.fragment.files[0].path)

    def write(self, path: Path, fs: FileSystem) -> None:
        document = {"fragment": self.fragment.to_json(), "sha256": self.sha256}
        check = hashlib.sha256(canonical_json(document)).hexdigest()
        fs.write_atomic(path, json.dumps(document | {"check": check}).encode())

    @classmethod
    def find(cls, path: Path) -> Record | None:
        """The record at a path, None where there is none. Raises CorruptError where it is not as it was written."""
        if not path.exists():
            return None
        try:
            document = json.loads(path.read_bytes())
            check = document.pop("check")
            if check != hashlib.sha256(canonical_json(document)).hexdigest():
                raise ValueError("its checksum is another")
            return cls(FragmentMetadata.from_json(json.dumps(document["fragment"])), document["sha256"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptError(f"{path} is not as it was written ({error})") from error


class Staging:
    """The folder `folder`, with the dataset in the making in `root`.

    storage: the file version of Lance, None for its default.
    """

    def __init__(self, folder: Path, layout: Layout, storage: str | None, fs: FileSystem) -> None:
        self.folder, self.root = folder, folder / "gallery"
        self._layout, self._storage, self._fs = layout, storage, fs
        self._data = self.root / "data"

    def begin(self) -> None:
        """Make the folder ready, also after a crash, whose leftovers are removed."""
        self._fs.make_folder(self._data)
        for path in self.folder.glob(".*.tmp"):
            self._fs.remove(path)
        self._remove_unknown()

    def put(self, shard: Shard, table: pa.Table) -> None:
        """Write one shard; when this returns, it is on disk."""
        with told(f"cannot write a shard to {self.root}", FULL):
            written = write_fragments(
                table,
                str(self.root),
                mode="create",
                max_rows_per_file=max(1, shard.rows),
                max_bytes_per_file=1 << 62,
                data_storage_version=self._storage,
            )
        if len(written) != 1 or len(written[0].files) != 1 or written[0].physical_rows != shard.rows:
            raise StoreError(f"Lance wrote a shard of {shard.rows} rows to {self.root} as {written!r:.200}")
        path = self._data / written[0].files[0].path
        flush([path, self._data], self._fs)
        Record(written[0], file_digest(path, self._fs)).write(self._record_path(shard.index), self._fs)

    def table(self, shard: Shard) -> pa.Table:
        """All columns of a shard. Raises StoreError where it is missing or damaged."""
        record = Record.find(self._record_path(shard.index))
        if record is None:
            raise StoreError(f"shard {shard.index} is missing in {self.folder}")
        path = self._data / record.name
        require_digest(path, record.sha256, self._fs)
        return LanceFileReader(str(path)).read_all(batch_size=max(1, shard.rows)).to_table()

    def files(self, shards: Collection[int]) -> dict[int, tuple[Path, int | None]]:
        """Files of some shards and the sizes that they must have, as far as they were written."""
        records = {index: Record.find(self._record_path(index)) for index in shards}
        return {
            index: (self._data / record.name, record.fragment.files[0].file_size_bytes)
            for index, record in records.items()
            if record is not None
        }

    def commit(self, schema: pa.Schema, *, stable_row_ids: bool) -> None:
        """Make the fragments the first version of the dataset, with the checksums of their files in the commit, and put
        it on disk. Raises StoreError where a shard is missing."""
        self._remove_unknown()
        records = [Record.find(self._record_path(index)) for index in range(self._layout.shards)]
        there = [record for record in records if record is not None]
        if len(there) < len(records):
            raise StoreError(
                f"shard {records.index(None)} is missing in {self.folder}; compute it anew with repair=True (--repair)"
            )
        for name in ("_versions", "_transactions"):  # of a commit that a crash cut short
            clear_folder(self.root / name, self._fs)
        with told(f"cannot commit {self.root}", FULL):
            operation = lance.LanceOperation.Overwrite(schema, [record.fragment for record in there])
            properties = {CHECKSUMS: " ".join(record.sha256 for record in there)}
            transaction = lance.Transaction(0, operation, transaction_properties=properties)
            lance.LanceDataset.commit(str(self.root), transaction, enable_stable_row_ids=stable_row_ids)
        made = [path for path in self.root.rglob("*") if path.parent != self._data]
        flush([*sorted(made, reverse=True), self.root], self._fs)  # what lies deeper comes first

    def _record_path(self, index: int) -> Path:
        return self.folder / f"shard-{index:06d}.json"

    def _remove_unknown(self) -> None:
        """Remove data files that belong to no record: of a process that was killed, or of a shard written again."""
        known = set()
        for index in range(self._layout.shards):
            with contextlib.suppress(CorruptError):  # `files` and `table` tell of it
                record = Record.find(self._record_path(index))
                known.add(record.name if record is not None else "")
        for path in self._data.iterdir():
            if path.name not in known:
                self._fs.remove(path)
