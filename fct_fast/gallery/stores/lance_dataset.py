"""The Lance store: a dataset `items.lance`, read at one version, written as a new dataset or as the next version.

`items.lance?version=7#embedding` names a version (or `?tag=name`) and a column; by default these are the latest and the
only one that holds vectors. A version never changes, so others may write while a job reads. Ids are in the column `id`,
where there is one, or in a named one. Deleted rows are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fct_fast.errors import ConfigError, SpaceError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.arrow import VectorType, ids_column, payload_schema, vector_column
from fct_fast.gallery.stores.ids import require_unique
from fct_fast.gallery.stores.lance_files import (
    blobs_of,
    data_files,
    manifest_path,
    open_dataset,
    scan,
    schema_of,
    told,
    wrong_size,
)
from fct_fast.gallery.stores.lance_live import LanceLiveSink
from fct_fast.gallery.stores.lance_naming import choose, version_of
from fct_fast.gallery.stores.lance_sink import LanceSink
from fct_fast.gallery.stores.lance_table import read_space, without_stamps
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.protocol import Array, Capabilities, Columns, Layout, Rows, Shard, Sink, spread
from fct_fast.space import SpaceFingerprint

__all__ = ["LanceSource", "open_sink", "open_source"]

MEASURED_ROWS = 256  # whose payload is weighed


class LanceSource:
    """A gallery in one version of a Lance dataset; see `protocol.Source`.

    Raises StoreError where the dataset cannot be read, ConfigError, DtypeError or ShapeError where a column is not what
    it should be, SpaceError where a fingerprint is of another width than its rows.
    """

    capabilities = Capabilities(atomic_swap=True, ids=True, payload=True, snapshot=True)
    held_bytes = 0

    def __init__(self, columns: Columns) -> None:
        self._path = columns.old.path
        self._dataset = open_dataset(self._path, version_of(columns.old))
        with told(f"cannot read {self._path}"):
            self.version = int(self._dataset.version)
            self.rows = int(self._dataset.count_rows())
            self._schema = schema_of(self._dataset)
            wrong = next(filter(None, starmap(wrong_size, data_files(self._dataset, self._path).items())), None)
        if wrong is not None:
            raise StoreError(f"{wrong}; restore it from its origin")
        if self.rows == 0:
            raise StoreError(f"{columns.old} has no rows; there is nothing to upgrade")
        self._chosen = choose(columns, self._schema)
        self.dims = {name: self._dim(column) for name, column in self._chosen.vectors.items()}
        self.ids_dtype = self._checked_ids()
        payload = without_stamps(payload_schema(self._schema, self._chosen.rows))
        self.payload = payload.serialize().to_pybytes() if payload.names else b""
        self.row_bytes = self._row_bytes()
        self.spaces = self._spaces()

    @property
    def places(self) -> Mapping[str, str]:
        named = {**self._chosen.vectors, **({"ids": self._chosen.id} if self._chosen.id is not None else {})}
        return {name: str(Place(str(self._path), {"version": str(self.version)}, c)) for name, c in named.items()}

    @property
    def form(self) -> Mapping[str, Any]:
        """location, version, rows: what was read. columns: all, in their order; id, vector, side: which these are.
        storage, stable_row_ids, blobs, indices: what else Lance has there."""
        with told(f"cannot read the indices of {self._path}"):
            indices = [
                f"{index.name} ({index.index_type} on {', '.join(index.field_names)})"
                for index in self._dataset.describe_indices()
            ]
        return {
            "store": "lance",
            "location": str(self._path),
            "version": self.version,
            "rows": self.rows,
            "columns": list(self._schema.names),
            "id": self._chosen.id,
            "vector": self._chosen.vectors["old"],
            "side": self._chosen.vectors.get("side"),
            "storage": self._dataset.data_storage_version,
            "stable_row_ids": self._dataset.has_stable_row_ids,
            "blobs": blobs_of(self._dataset),
            "indices": indices,
        }

    @property
    def notes(self) -> Sequence[str]:
        blobs = [f"The blobs of column {name} travel as plain binary values." for name in blobs_of(self._dataset)]
        return [*self._chosen.notes, *blobs]

    def identity(self) -> dict[str, Any]:
        dataset, stats = open_dataset(self._path, self.version), hashlib.sha256()
        with told(f"cannot read the files of {self._path}"):
            files = data_files(dataset, self._path)
            for file in files:
                stat = file.stat()
                stats.update(f"{file.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
            manifest = manifest_path(self._path, self.version).read_bytes()
        return {
            "path": str(self._path),
            "version": self.version,
            "columns": {**self._chosen.vectors, "ids": self._chosen.id},
            "rows": self.rows,
            "files": len(files),
            "manifest": hashlib.sha256(manifest).hexdigest(),
            "sizes and times": stats.hexdigest(),
        }

    def read(self, shard: Shard) -> Rows:
        table = self._read(None, shard.start, shard.rows)
        payload = table.select(list(self._chosen.payload)) if self._chosen.payload else None
        return self._rows(table, shard.start, payload)

    def take(self, positions: npt.NDArray[np.int64]) -> Rows:
        names = self._chosen.rows
        table = pa.schema([self._schema.field(name) for name in names]).empty_table()
        if len(positions):
            with told(f"cannot read rows of {self._path}"):
                table = self._dataset.take(positions, columns=names)
        return self._rows(table, 0, None)

    def sample(self, count: int) -> Rows:
        return self.take(spread(self.rows, count))

    def all_ids(self) -> Array | None:
        return None if self._chosen.id is None else self._ids(self._read([self._chosen.id]), 0)

    def overlaps(self, place: Place) -> bool:
        """Of the dataset's own place: False, since a sink there is its next version, which is seen after cutover."""
        if place.scheme:
            return False
        return place.path in self._path.parents or self._path in place.path.parents

    def close(self) -> None:
        self._dataset = None

    def _read(self, names: Sequence[str] | None, start: int = 0, rows: int | None = None) -> pa.Table:
        """Rows from `start` on, all that follow where `rows` is None."""
        wanted = self.rows - start if rows is None else rows
        with told(f"cannot read rows {start} to {start + wanted - 1} of {self._path}"):
            table = scan(self._dataset, names, start, wanted)
        if table.num_rows != wanted:
            raise StoreError(f"{self._path} gave {table.num_rows} rows from row {start} on, not {wanted}; restore it")
        return table

    def _rows(self, table: pa.Table, first_row: int, payload: pa.Table | None) -> Rows:
        vectors = {
            name: vector_column(table[column], self._where(column), dim=self.dims[name], first_row=first_row)
            for name, column in self._chosen.vectors.items()
        }
        ids = None if self._chosen.id is None else self._ids(table, first_row)
        return Rows(vectors["old"], vectors.get("side"), ids, payload)

    def _ids(self, table: pa.Table, first_row: int) -> Array:
        assert self._chosen.id is not None
        where = self._where(self._chosen.id)
        return ids_column(table[self._chosen.id], where, dtype=self.ids_dtype, first_row=first_row)

    def _where(self, column: str) -> str:
        return str(Place(str(self._path), column=column))

    def _dim(self, column: str) -> int:
        where = self._where(column)
        # Lists of any length are all as long as the first, or are refused later.
        return VectorType.of(self._schema.field(column).type, where).dim or int(
            vector_column(self._read([column], 0, 1)[column], where).shape[1]
        )

    def _checked_ids(self) -> np.dtype[Any] | None:
        """The dtype of the ids, which are read and must be unique."""
        if self._chosen.id is None:
            return None
        where = self._where(self._chosen.id)
        ids = ids_column(self._read([self._chosen.id])[self._chosen.id], where)
        require_unique(ids, where)
        return ids.dtype

    def _row_bytes(self) -> int:
        kinds = {name: VectorType.of(self._schema.field(c).type, "") for name, c in self._chosen.vectors.items()}
        fixed = sum(self.dims[name] * kind.dtype.itemsize for name, kind in kinds.items())
        fixed += self.ids_dtype.itemsize if self.ids_dtype is not None else 0
        count = min(self.rows, MEASURED_ROWS)
        payload = self._read(self._chosen.payload, 0, count).nbytes if self._chosen.payload else 0
        return int(fixed + -(-payload // count))

    def _spaces(self) -> dict[str, SpaceFingerprint]:
        found = {n: read_space(self._schema.field(c), self._where(c)) for n, c in self._chosen.vectors.items()}
        spaces = {name: space for name, space in found.items() if space is not None}
        for name, space in spaces.items():
            if space.dim != self.dims[name]:
                raise SpaceError(
                    f"{self._where(self._chosen.vectors[name])} carries the fingerprint of rows of {space.dim} values, "
                    f"but has rows of {self.dims[name]}; remove or correct the fingerprint"
                )
        return spaces


def open_source(columns: Columns, fs: FileSystem) -> LanceSource:
    return LanceSource(columns)


def open_sink(place: Place, layout: Layout, token: str, fs: FileSystem) -> Sink:
    if place.options:
        raise ConfigError(f"{place} has options, which a Lance dataset that is written does not take; leave them out")
    if layout.form.get("store") == "lance" and layout.form.get("location") == place.location:
        return LanceLiveSink(place, layout, token, fs)
    sink = LanceSink(place, place.path, layout, token, fs)
    sink.require_columns()  # while nothing is written yet
    return sink
