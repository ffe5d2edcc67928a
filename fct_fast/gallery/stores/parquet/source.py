"""A gallery in Parquet or Arrow files, to read."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.arrow import ids_column
from fct_fast.gallery.stores.ids import require_unique
from fct_fast.gallery.stores.parquet.columns import ColumnCursor
from fct_fast.gallery.stores.parquet.dataset import Dataset
from fct_fast.gallery.stores.parquet.files import fingerprint, gallery_files
from fct_fast.gallery.stores.parquet.naming import choose
from fct_fast.gallery.stores.parquet.vectors import VectorCursor
from fct_fast.gallery.stores.place import Place, absolute
from fct_fast.gallery.stores.protocol import Array, Capabilities, Columns, Rows, Shard, spread
from fct_fast.space import SpaceFingerprint

__all__ = ["ParquetSource"]

SPREAD = 8  # row groups that a sample comes from, where they have enough rows
MEASURED = 256  # rows whose payload is weighed
PIECE = 8 << 20  # bytes that a reader of vectors, or of another column, holds beside the rows: about


class ParquetSource:
    """See `protocol.Source`. Raises StoreError, DtypeError, ShapeError or ConfigError where files or columns cannot be
    used, SpaceError where a fingerprint is of another width than its rows."""

    capabilities = Capabilities(atomic_swap=True, ids=True, payload=True, snapshot=False)

    def __init__(self, columns: Columns, fs: FileSystem) -> None:
        self._place, self._fs = columns.old.gallery, fs
        self._data = data = Dataset.open(self._place.path, fs)
        self._chosen = chosen = choose(columns, data)
        self._vectors = {name: VectorCursor(data.files, column, fs) for name, column in chosen.vectors.items()}
        id_fields = [] if chosen.ids is None else [data.schema.field(chosen.ids)]
        self._ids = ColumnCursor(data.files, pa.schema(id_fields), fs)
        self._others = ColumnCursor(data.files, pa.schema([*id_fields, *chosen.payload]), fs)
        self._threads = ThreadPoolExecutor(len(self._vectors), "fct-parquet")
        self.notes: Sequence[str] = chosen.notes
        space = data.space(chosen.vectors["old"].dim)
        self.spaces: Mapping[str, SpaceFingerprint] = {} if space is None else {"old": space}
        self.ids_dtype = self._checked_ids()
        self._payload_bytes = self._weighed()

    @property
    def places(self) -> Mapping[str, str]:
        named = {name: column.name for name, column in self._chosen.vectors.items()}
        if self._chosen.ids is not None:
            named["ids"] = self._chosen.ids
        return {name: self._column(column) for name, column in named.items()}

    @property
    def rows(self) -> int:
        return self._data.rows

    @property
    def dims(self) -> Mapping[str, int]:
        return {name: column.dim for name, column in self._chosen.vectors.items()}

    @property
    def payload(self) -> bytes:
        schema = self._chosen.payload
        return schema.serialize().to_pybytes() if len(schema) else b""

    @property
    def form(self) -> Mapping[str, Any]:
        """columns: all that go on, in their order; types: the fields of ids and vectors, an Arrow schema in base64."""
        old, ids = self._chosen.vectors["old"].name, self._chosen.ids
        kept = {old, *([ids] if ids is not None else []), *self._chosen.payload.names}
        types = pa.schema([self._data.schema.field(name) for name in ([] if ids is None else [ids]) + [old]])
        return {
            "store": "parquet",
            "vector": old,
            **({"id": ids} if ids is not None else {}),
            "columns": [name for name in self._data.schema.names if name in kept],
            "types": base64.b64encode(types.serialize().to_pybytes()).decode(),
        }

    @property
    def row_bytes(self) -> int:
        vectors = sum(column.dim * column.kind.dtype.itemsize for column in self._chosen.vectors.values())
        return vectors + (self.ids_dtype.itemsize if self.ids_dtype is not None else 0) + self._payload_bytes

    @property
    def held_bytes(self) -> int:
        pieces = len(self._vectors) + len(self._chosen.payload)
        return pieces * max(PIECE, self._data.held_bytes)

    def identity(self) -> dict[str, Any]:
        groups = hashlib.sha256(repr([file.groups for file in self._data.files]).encode())
        columns = repr([(field.name, str(field.type)) for field in self._data.schema])
        return {
            "path": str(self._place.path),
            "listed": len(gallery_files(self._place.path)),
            "rows": self.rows,
            "groups": groups.hexdigest(),
            "columns": hashlib.sha256(columns.encode()).hexdigest(),
            **{name: Place.parse(place).column for name, place in self.places.items()},
            "dtypes": [column.kind.dtype.str for column in self._chosen.vectors.values()],
            **fingerprint([file.path for file in self._data.files], self._fs),
        }

    def read(self, shard: Shard) -> Rows:
        reading = {
            name: self._threads.submit(cursor.read, shard.start, shard.stop) for name, cursor in self._vectors.items()
        }
        try:
            ids, payload = self._read_others(shard.start, shard.stop)
        finally:
            wait(reading.values())
        side = reading["side"].result() if "side" in reading else None
        return Rows(reading["old"].result(), side, ids, payload)

    def take(self, positions: npt.NDArray[np.int64]) -> Rows:
        found = {name: cursor.take(positions) for name, cursor in self._vectors.items()}
        ids = None if self.ids_dtype is None else self._id_values(self._ids.take(positions), 0)
        return Rows(found["old"], found.get("side"), ids)

    def sample(self, count: int) -> Rows:
        """The first rows of some row groups, spread over the gallery."""
        ranges = list(self._ranges(min(count, self.rows)))
        found = {
            name: np.concatenate([cursor.read(start, stop) for start, stop in ranges])
            for name, cursor in self._vectors.items()
        }
        ids = None
        if self.ids_dtype is not None:
            ids = self._id_values(pa.concat_tables([self._ids.read(start, stop) for start, stop in ranges]), 0)
        return Rows(found["old"], found.get("side"), ids)

    def all_ids(self) -> Array | None:
        if self.ids_dtype is None:
            return None
        out, done = np.empty(self.rows, self.ids_dtype), 0
        for batch in self._ids.batches(0, self.rows):
            out[done : done + len(batch)] = self._id_values(batch, done)
            done += len(batch)
        return out

    def overlaps(self, place: Place) -> bool:
        if place.scheme:
            return False
        root = self._place.path
        if not root.exists() and fnmatch.fnmatch(str(place.path), str(root)):  # a pattern
            return True
        return any(
            place.path == own or place.path in own.parents or (own in place.path.parents and own.is_dir())
            for own in [root, *(absolute(file.path) for file in self._data.files)]
        )

    def close(self) -> None:
        self._threads.shutdown()

    def _column(self, name: str) -> str:
        return str(Place(self._place.location, self._place.options, name))

    def _read_others(self, start: int, stop: int) -> tuple[Array | None, pa.Table | None]:
        name, payload = self._chosen.ids, self._chosen.payload
        if name is None and not len(payload):
            return None, None
        table = self._others.read(start, stop)
        ids = None if name is None else self._id_values(table, start)
        if not len(payload):
            return ids, None
        return ids, table.select(payload.names).replace_schema_metadata(payload.metadata)

    def _id_values(self, found: pa.Table | pa.RecordBatch, row: int) -> Array:
        name = self._chosen.ids
        assert name is not None
        return ids_column(found.column(name), self._column(name), dtype=self.ids_dtype, first_row=row)

    def _checked_ids(self) -> np.dtype[Any] | None:
        """The dtype of all ids, once they are known to be unique. Ids that rise are never held at once."""
        self.ids_dtype, dtype = None, None
        if self._chosen.ids is None:
            return None
        last: Array | None = None
        rising, row = True, 0
        for batch in self._ids.batches(0, self.rows):
            ids = self._id_values(batch, row)
            dtype = ids.dtype if dtype is None else np.result_type(ids.dtype, dtype)  # of text: the longer one
            rising = rising and bool((ids[1:] > ids[:-1]).all()) and (last is None or bool(ids[0] > last[-1]))
            last, row = ids, row + len(ids)
        self.ids_dtype = dtype
        if not rising:
            all_ids = self.all_ids()
            assert all_ids is not None
            require_unique(all_ids, self._column(self._chosen.ids))
        return dtype

    def _weighed(self) -> int:
        """Bytes of the payload of a row, from some rows and from what the file says of its size."""
        if not len(self._chosen.payload):
            return 0
        rows = min(self.rows, MEASURED)
        payload = self._others.read(0, rows).select(self._chosen.payload.names)
        vectors = sum(column.dim * column.kind.dtype.itemsize for column in self._chosen.vectors.values())
        return int(max(payload.nbytes / rows, self._data.table()[0].row_bytes - vectors)) + 1

    def _ranges(self, count: int) -> Iterator[tuple[int, int]]:
        """Rows of a sample, rising: as many as asked for, of few row groups where these have enough."""
        sizes = np.array([rows for file in self._data.files for rows in file.groups], np.int64)
        starts, number = np.cumsum(sizes) - sizes, SPREAD
        while True:
            chosen = spread(len(sizes), number)
            if number >= len(sizes) or np.minimum(sizes[chosen], count).sum() >= count:
                break
            number *= 2
        left, share = count, 0
        for others, size in zip(range(len(chosen), 0, -1), np.sort(sizes[chosen]).tolist(), strict=True):
            share = max(share, -(-left // others))  # of each of the others, which are at least as large
            left -= min(size, share)
        for start, size in zip(starts[chosen].tolist(), sizes[chosen].tolist(), strict=True):
            step = min(size, share, count)
            if step:
                yield start, start + step
            count -= step
