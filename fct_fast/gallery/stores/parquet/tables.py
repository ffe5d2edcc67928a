"""One file of a gallery, Parquet or Arrow IPC, opened for reading: its schema, and its rows group by group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fct_fast.errors import StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.arrow import VectorType
from fct_fast.gallery.stores.parquet.files import Input, arrow_errors
from fct_fast.gallery.stores.parquet.footer import ChunkFacts, FooterError, chunk_facts, read_footer
from fct_fast.gallery.stores.parquet.pages import Chunk
from fct_fast.gallery.stores.parquet.thrift import Struct

__all__ = ["IpcTable", "ParquetTable", "Table", "open_table"]

BUFFER = 1 << 20  # bytes of a column chunk that Arrow holds at once
_MAGIC = {b"PAR1": "parquet", b"PARE": "encrypted", b"ARRO": "ipc", b"FEA1": "feather 1", b"\xff\xff\xff\xff": "stream"}
_CODECS = {0: "", 1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}  # of parquet.thrift
_WIDTHS = {"FLOAT": 4}


class Table:
    """A file of rows in groups. rows: of each group."""

    def __init__(self, file: Input, schema: pa.Schema, rows: Sequence[int]) -> None:
        self.file, self.schema, self.rows = file, schema, tuple(rows)
        if min(rows, default=0) < 0:
            raise StoreError(f"{file.path} is damaged: its footer speaks of {min(rows)} rows; restore it")

    def batches(self, group: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        """The rows of a group, at most `size` at once where that can be chosen."""
        raise NotImplementedError

    def chunk(self, group: int, column: str, kind: VectorType, dim: int) -> Chunk | None:
        """Where the vectors of a group are, None where Arrow must find them."""
        return None

    @property
    def row_bytes(self) -> float:
        """Bytes that a row takes in the file, about."""
        return self.file.size() / max(1, sum(self.rows))

    @property
    def held_bytes(self) -> int:
        """Bytes of the largest piece that is read at once."""
        return 0


class ParquetTable(Table):
    """leaves: the paths of the columns as Parquet has them, those of nested columns one by one."""

    def __init__(self, file: Input) -> None:
        self._reader = pq.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True)
        meta = self._reader.metadata
        # Arrow keeps a schema of its own among the metadata of a file, and tells of the others only where it did not.
        known = {key: value for key, value in (meta.metadata or {}).items() if key != b"ARROW:schema"}
        schema, rows = self._reader.schema_arrow, [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        super().__init__(file, schema.with_metadata({**known, **(schema.metadata or {})} or None), rows)
        self.leaves: list[str] = [meta.schema.column(number).path for number in range(meta.num_columns)]
        self._footer: Struct | None = None
        self._leaves_of: dict[str, list[int]] = {}
        for number, path in enumerate(self.leaves):
            self._leaves_of.setdefault(path.split(".")[0], []).append(number)

    def batches(self, group: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        return iter(self._reader.iter_batches(size, row_groups=[group], columns=list(columns), use_threads=True))

    def read(self, columns: Sequence[str]) -> pa.Table:
        """All rows of some columns at once."""
        return self._reader.read(list(columns))

    def chunk(self, group: int, column: str, kind: VectorType, dim: int) -> Chunk | None:
        leaves = self._leaves_of.get(column, [])
        found = self._described(group, leaves[0]) if len(leaves) == 1 else None  # more: a name with a dot in it
        if found is None or found.codec not in _CODECS:
            return None
        leaf, values = self._reader.metadata.schema.column(leaves[0]), 1 if kind.form == "binary" else dim
        chunk = Chunk(
            where=f"{self.file.path}#{column}",
            offset=found.offset,
            size=found.size,
            values=found.values,
            width=_WIDTHS.get(leaf.physical_type, leaf.length),
            dim=values,
            codec=_CODECS[found.codec],
            max_rep=leaf.max_repetition_level,
            max_def=leaf.max_definition_level,
        )
        fits = chunk.width * values == dim * kind.dtype.itemsize and chunk.values == self.rows[group] * values
        inside = 0 < chunk.offset < chunk.end <= self.file.size()
        return chunk if fits and inside and chunk.max_rep == (kind.form != "binary") else None

    @property
    def row_bytes(self) -> float:
        meta = self._reader.metadata
        total = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
        return float(total / max(1, meta.num_rows))

    def _described(self, group: int, leaf: int) -> ChunkFacts | None:
        """What the footer says of a column chunk. (pyarrow has calls for this, which end the process over a footer that
        is damaged in some ways.)"""
        try:
            if self._footer is None:
                self._footer = read_footer(self.file)
            return chunk_facts(self._footer, group, leaf)
        except FooterError:
            return None


class IpcTable(Table):
    """Groups are record batches, which Arrow reads whole."""

    def __init__(self, file: Input) -> None:
        schema = pa.ipc.open_file(file).schema
        # The length of a batch is only known once some of it was read: the narrowest column.
        narrow = min(range(len(schema)), key=lambda i: _width(schema.field(i).type), default=0)
        self._open: tuple[tuple[str, ...], Any] = ((), None)
        self._file = file
        reader = self._reader(schema, [schema.names[narrow]] if len(schema) else [])
        super().__init__(file, schema, [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)])

    def batches(self, group: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        with arrow_errors(self.file.path):
            batch = self._reader(self.schema, columns).get_batch(group)
            batch.validate(full=True)  # offsets out of bounds would end the process, not raise
        for start in range(0, batch.num_rows, size):
            yield batch.slice(start, size)

    @property
    def held_bytes(self) -> int:
        """Of the largest batch, if the file was twice its size before it was compressed."""
        return 2 * self.file.size() * max(self.rows, default=0) // max(1, sum(self.rows))

    def _reader(self, schema: pa.Schema, columns: Sequence[str]) -> Any:
        wanted = tuple(columns)
        if self._open[0] != wanted or self._open[1] is None:
            options = pa.ipc.IpcReadOptions(included_fields=[schema.names.index(name) for name in wanted])
            self._open = wanted, pa.ipc.open_file(self._file, options=options)
        return self._open[1]


def open_table(path: Path, fs: FileSystem) -> Table:
    """Open a file. Raises StoreError for one that is damaged or of another format."""
    file = Input(path, fs)
    kind = _MAGIC.get(bytes(file.read(4)), "")
    file.seek(0)
    with arrow_errors(path):
        if kind == "parquet":
            return ParquetTable(file)
        if kind == "ipc":
            return IpcTable(file)
    raise StoreError(f"{path} {_OTHERS[kind]}")


_OTHERS = {
    "": "is neither a Parquet nor an Arrow file; check the path of the gallery",
    "encrypted": "is an encrypted Parquet file; give a decrypted copy",
    "feather 1": "is a Feather file of version 1; write it again as version 2",
    "stream": "is an Arrow stream, which must be read from its start; write it as a file, with pyarrow.ipc.new_file",
}


def _width(type_: pa.DataType) -> int:
    try:
        return int(type_.bit_width)
    except ValueError:  # of varying width
        return 1 << 30
