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
    data_files,
    manifest_path,
    open_dataset,
    scan,
    schema_of,
    told,
    wrong_size,
)
from fct_fast.gallery.stores.lance_table import read_space
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.protocol import Array, Capabilities, Columns, Layout, Rows, Shard, Sink, spread
from fct_fast.space import SpaceFingerprint

__all__ = ["LanceSource", "open_sink", "open_source"]

ID_COLUMN = "id"
MEASURED_ROWS = 256  # whose payload is weighed


class LanceSource:
    """A gallery in one version of a Lance dataset; see `protocol.Source`.

    Raises StoreError where the dataset cannot be read, DtypeError or ShapeError where a column holds no vectors or ids,
    SpaceError where a fingerprint is of another width than its rows.
    """

    capabilities = Capabilities(atomic_swap=True, ids=True, payload=True, snapshot=True)
    held_bytes = 0

    def __init__(self, columns: Columns) -> None:
        self._path = columns.old.path
        self._dataset = open_dataset(self._path, _version(columns.old))
        self.version: int = self._dataset.version
        with told(f"cannot read the schema of {self._path}"):
            self._schema = schema_of(self._dataset)
            self.rows: int = self._dataset.count_rows()
            wrong = next(filter(None, starmap(wrong_size, data_files(self._dataset, self._path).items())), None)
        if wrong is not None:
            raise StoreError(f"{wrong}; restore it from its origin")
        if self.rows == 0:
            raise StoreError(f"{columns.old} has no rows; there is nothing to upgrade")
        self._columns = self._named(columns)
        self._id = self._id_column(columns.ids)
        self._vectors = {
            name: VectorType.of(self._schema.field(c).type, self._where(c)) for name, c in self._columns.items()
        }
        self.dims = self._dims()
        self.ids_dtype: np.dtype[Any] | None = None
        if self._id is not None:
            ids = ids_column(self._read([self._id])[self._id], self._where(self._id))
            require_unique(ids, self._where(self._id))
            self.ids_dtype = ids.dtype
        travelling = payload_schema(
            self._schema, {*self._columns.values(), *([self._id] if self._id is not None else [])}
        )
        self._payload_names = list(travelling.names)
        self.payload = travelling.serialize().to_pybytes() if travelling.names else b""
        self.row_bytes = self._row_bytes()
        self.spaces = self._spaces()

    @property
    def places(self) -> Mapping[str, str]:
        named = self._columns | ({"ids": self._id} if self._id is not None else {})
        return {name: str(Place(str(self._path), {"version": str(self.version)}, c)) for name, c in named.items()}

    @property
    def form(self) -> Mapping[str, Any]:
        """`location`, `version` and `rows` say what was read; `storage` and `stable_row_ids` how; `columns` are all, in
        their order; `indices` are sentences on each index."""
        with told(f"cannot read the indices of {self._path}"):
            return {
                "store": "lance",
                "location": str(self._path),
                "version": self.version,
                "rows": self.rows,
                "id": self._id,
                "vector": self._columns["old"],
                "side": self._columns.get("side"),
                "columns": list(self._schema.names),
                "blobs": self._blobs(),
                "storage": self._dataset.data_storage_version,
                "stable_row_ids": self._dataset.has_stable_row_ids,
                "indices": [
                    f"{index.name} ({index.index_type} on {', '.join(index.field_names)})"
                    for index in self._dataset.describe_indices()
                ],
            }

    @property
    def notes(self) -> Sequence[str]:
        return [f"The blobs of column {name} travel as plain binary values." for name in self._blobs()]

    def identity(self) -> dict[str, Any]:
        dataset = open_dataset(self._path, self.version)
        stats = hashlib.sha256()
        with told(f"cannot list the files of {self._path}"):
            files = data_files(dataset, self._path)
        for file in files:
            with told(f"cannot read {file}"):
                stat = file.stat()
            stats.update(f"{file.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        with told(f"cannot read the manifest of {self._path}"):
            manifest = manifest_path(self._path, self.version).read_bytes()
        return {
            "path": str(self._path),
            "version": self.version,
            "columns": {**self._columns, "ids": self._id},
            "rows": self.rows,
            "files": len(files),
            "manifest": hashlib.sha256(manifest).hexdigest(),
            "sizes and times": stats.hexdigest(),
        }

    def read(self, shard: Shard) -> Rows:
        table = self._read(None, shard.start, shard.rows)
        vectors, ids = self._of_table(table, shard.start)
        payload = table.select(self._payload_names) if self._payload_names else None
        return Rows(vectors["old"], vectors.get("side"), ids, payload)

    def take(self, positions: npt.NDArray[np.int64]) -> Rows:
        names = [*self._columns.values(), *([self._id] if self._id is not None else [])]
        if len(positions):
            with told(f"cannot read rows of {self._path}"):
                table = self._dataset.take(positions, columns=names)
        else:
            table = pa.schema([self._schema.field(name) for name in names]).empty_table()
        vectors, ids = self._of_table(table, 0)
        return Rows(vectors["old"], vectors.get("side"), ids)

    def sample(self, count: int) -> Rows:
        return self.take(spread(self.rows, count))

    def all_ids(self) -> Array | None:
        if self._id is None:
            return None
        return ids_column(self._read([self._id])[self._id], self._where(self._id), dtype=self.ids_dtype)

    def overlaps(self, place: Place) -> bool:
        """Of the dataset's own place: False, since a sink there is its next version, which is seen after cutover."""
        if place.scheme:
            return False
        return place.path in self._path.parents or self._path in place.path.parents

    def close(self) -> None:
        self._dataset = None

    def _read(self, names: Sequence[str] | None, start: int = 0, rows: int | None = None) -> pa.Table:
        with told(f"cannot read rows {start} to {(self.rows if rows is None else start + rows) - 1} of {self._path}"):
            table = scan(self._dataset, names, start, rows)
        wanted = self.rows - start if rows is None else rows
        if table.num_rows != wanted:
            raise StoreError(f"{self._path} gave {table.num_rows} rows from row {start} on, not {wanted}; restore it")
        return table

    def _of_table(self, table: pa.Table, first_row: int) -> tuple[dict[str, Array], Array | None]:
        """Vectors by "old" and "side", and the ids."""
        vectors = {
            name: vector_column(table[column], self._where(column), dim=self.dims[name], first_row=first_row)
            for name, column in self._columns.items()
        }
        if self._id is None:
            return vectors, None
        where = self._where(self._id)
        return vectors, ids_column(table[self._id], where, dtype=self.ids_dtype, first_row=first_row)

    def _named(self, columns: Columns) -> dict[str, str]:
        """The columns "old" and "side" by name."""
        side = columns.side.column if columns.side is not None else None
        if columns.side is not None and not side:
            raise ConfigError(f"{columns.side} names no column of side-information; write it as GALLERY#column")
        old = columns.old.column
        if not old:
            found = [field.name for field in self._schema if VectorType.find(field.type) and field.name != side]
            if len(found) != 1:
                raise ConfigError(
                    f"{self._path} has {len(found)} columns of vectors{': ' * bool(found)}{', '.join(found)}; name one "
                    f"as GALLERY#column"
                )
            old = found[0]
        named = {"old": old} | ({"side": side} if side is not None else {})
        for name in named.values():
            self._require(name)
        return named

    def _id_column(self, place: Place | None) -> str | None:
        if place is not None:
            if place.location != str(self._path) or not place.column:
                raise ConfigError(f"{place} is no column of {self._path}; ids are in a column of the same dataset")
            return self._require(place.column)
        if ID_COLUMN not in self._schema.names or ID_COLUMN in self._columns.values():
            return None
        return ID_COLUMN if _may_be_ids(self._schema.field(ID_COLUMN).type) else None

    def _require(self, name: str) -> str:
        if name not in self._schema.names:
            raise ConfigError(f"{self._path} has no column {name!r:.80}; it has {', '.join(self._schema.names)}"[:400])
        return name

    def _where(self, column: str) -> str:
        return str(Place(str(self._path), column=column))

    def _dims(self) -> dict[str, int]:
        dims = {name: kind.dim for name, kind in self._vectors.items()}
        for name, column in self._columns.items():
            if not dims[name]:  # lists of any length: as long as the first
                first = self._read([column], 0, 1)
                dims[name] = vector_column(first[column], self._where(column)).shape[1]
        return dims

    def _row_bytes(self) -> int:
        vectors = sum(self.dims[name] * kind.dtype.itemsize for name, kind in self._vectors.items())
        ids = self.ids_dtype.itemsize if self.ids_dtype is not None else 0
        if not self._payload_names:
            return vectors + ids
        count = min(self.rows, MEASURED_ROWS)
        return vectors + ids + int(-(-self._read(self._payload_names, 0, count).nbytes // count))

    def _spaces(self) -> dict[str, SpaceFingerprint]:
        spaces = {}
        for name, column in self._columns.items():
            space = read_space(self._schema.field(column), self._where(column))
            if space is None:
                continue
            if space.dim != self.dims[name]:
                raise SpaceError(
                    f"{self._where(column)} carries the fingerprint of rows of {space.dim} values, but has rows of "
                    f"{self.dims[name]}; remove or correct the fingerprint"
                )
            spaces[name] = space
        return spaces

    def _blobs(self) -> list[str]:
        """Payload columns that Lance keeps apart, as blobs."""
        return [
            field.name
            for field in self._dataset.schema
            if field.name in self._payload_names
            and (str(field.type).startswith("extension<lance.blob") or b"lance-encoding:blob" in (field.metadata or {}))
        ]


def open_source(columns: Columns, fs: FileSystem) -> LanceSource:
    return LanceSource(columns)


def open_sink(place: Place, layout: Layout, token: str, fs: FileSystem) -> Sink:
    from fct_fast.gallery.stores.lance_live import LanceLiveSink
    from fct_fast.gallery.stores.lance_sink import LanceSink

    if place.options:
        raise ConfigError(f"{place} has options, which a Lance dataset that is written does not take; leave them out")
    form = layout.form
    if form.get("store") == "lance" and form.get("location") == place.location:
        return LanceLiveSink(place, layout, token, fs)
    sink = LanceSink(place, place.path, layout, token, fs)
    sink.require_columns()  # while nothing is written yet
    return sink


def _version(place: Place) -> int | str | None:
    """The version or tag that a place names."""
    unknown = set(place.options) - {"version", "tag"}
    if unknown or len(place.options) > 1:
        raise ConfigError(f"{place} has the options {sorted(place.options)}; a Lance dataset takes version or tag")
    if "tag" in place.options:
        return place.options["tag"]
    version = place.options.get("version")
    if version is not None and not (version.isascii() and version.isdigit() and 0 < int(version) < 2**63):
        raise ConfigError(f"version is a whole number from 1 on, got {version!r:.80} in {place}")
    return None if version is None else int(version)


def _may_be_ids(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return bool(pa.types.is_integer(type_) or pa.types.is_string(type_) or pa.types.is_large_string(type_))
