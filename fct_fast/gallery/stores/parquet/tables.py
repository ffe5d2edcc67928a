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
from fct_fast.gallery.stores.parquet.pages import Chunk

__all__ = ["IpcTable", "ParquetTable", "Table", "open_table"]

BUFFER = 1 << 20  # bytes of a column chunk that Arrow holds at once
_MAGIC = {b"PAR1": "parquet", b"PARE": "encrypted", b"ARRO": "ipc", b"FEA1": "feather 1", b"\xff\xff\xff\xff": "stream"}
_CODECS = {"UNCOMPRESSED": "", "SNAPPY": "snappy", "GZIP": "gzip", "BROTLI": "brotli", "ZSTD": "zstd"}
_WIDTHS = {"FLOAT": 4}


class Table:
    """A file of rows in groups. rows: of each group; widths: bytes of a row by column, about."""

    def __init__(self, file: Input, schema: pa.Schema, rows: Sequence[int]) -> None:
        self.file, self.schema, self.rows = file, schema, tuple(rows)

    def batches(self, group: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        """The rows of a group, at most `size` at once where that can be chosen."""
        raise NotImplementedError

    def chunk(self, group: int, column: str, kind: VectorType, dim: int) -> Chunk | None:
        """Where the vectors of a group are, None where Arrow must find them."""
        return None

    def row_bytes(self, columns: Sequence[str]) -> float:
        """Bytes that a row takes in the file, over these columns."""
        raise NotImplementedError

    @property
    def held_bytes(self) -> int:
        """Bytes of the largest piece that is read at once."""
        return 0

    def close(self) -> None:
        self.file.close()


class ParquetTable(Table):
    def __init__(self, file: Input) -> None:
        self._reader = pq.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True)
        meta = self._reader.metadata
        # Arrow keeps a schema of its own among the metadata of a file, and tells of the others only where it did not.
        known = {key: value for key, value in (meta.metadata or {}).items() if key != b"ARROW:schema"}
        schema, rows = self._reader.schema_arrow, [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        super().__init__(file, schema.with_metadata({**known, **(schema.metadata or {})} or None), rows)
        self._leaves: dict[str, list[int]] = {}
        for number in range(meta.num_columns):
            self._leaves.setdefault(meta.schema.column(number).path.split(".")[0], []).append(number)

    def batches(self, group: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        return iter(self._reader.iter_batches(size, row_groups=[group], columns=list(columns), use_threads=True))

    def chunk(self, group: int, column: str, kind: VectorType, dim: int) -> Chunk | None:
        meta, leaves = self._reader.metadata, self._leaves.get(column, [])
        if len(leaves) != 1:  # also of a name with a dot in it
            return None
        leaf, found = meta.schema.column(leaves[0]), meta.row_group(group).column(leaves[0])
        width = _WIDTHS.get(leaf.physical_type, leaf.length)
        values = 1 if kind.form == "binary" else dim
        rows = self.rows[group]
        if (
            width * values != dim * kind.dtype.itemsize
            or found.num_values != rows * values
            or leaf.max_repetition_level != (kind.form != "binary")
            or found.compression not in _CODECS
            or found.file_path
        ):
            return None
        start = found.data_page_offset
        if found.dictionary_page_offset:
            start = min(start, found.dictionary_page_offset)
        size, length = found.total_compressed_size, self.file.size()
        if not 0 < start <= start + size <= length:
            return None
        return Chunk(
            where=f"{self.file.path}#{column}",
            offset=start,
            size=size,
            values=found.num_values,
            width=width,
            dim=values,
            codec=_CODECS[found.compression],
            max_rep=leaf.max_repetition_level,
            max_def=leaf.max_definition_level,
        )

    def row_bytes(self, columns: Sequence[str]) -> float:
        meta, total = self._reader.metadata, 0
        for leaf in (leaf for name in columns for leaf in self._leaves.get(name, [])):
            total += sum(meta.row_group(g).column(leaf).total_uncompressed_size for g in range(meta.num_row_groups))
        return float(total / max(1, meta.num_rows))

    def close(self) -> None:
        self._reader.close(force=True)
        super().close()


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
        batch = self._reader(self.schema, columns).get_batch(group)
        batch.validate(full=True)  # offsets out of bounds would end the process, not raise
        for start in range(0, batch.num_rows, size):
            yield batch.slice(start, size)

    def row_bytes(self, columns: Sequence[str]) -> float:
        group = max(range(len(self.rows)), key=lambda i: self.rows[i], default=None)
        if group is None or not columns:
            return 0.0
        return float(sum(batch.nbytes for batch in self.batches(group, columns, 1 << 30)) / max(1, self.rows[group]))

    @property
    def held_bytes(self) -> int:
        return int(self.row_bytes(self.schema.names) * max(self.rows, default=0))

    def _reader(self, schema: pa.Schema, columns: Sequence[str]) -> Any:
        wanted = tuple(columns)
        if self._open[0] != wanted or self._open[1] is None:
            options = pa.ipc.IpcReadOptions(included_fields=[schema.names.index(name) for name in wanted])
            self._open = wanted, pa.ipc.open_file(self._file, options=options)
        return self._open[1]


def open_table(path: Path, fs: FileSystem) -> Table:
    """Open a file. Raises StoreError for one that is damaged or of another format."""
    file = Input(path, fs)
    try:
        kind = _MAGIC.get(bytes(file.read(4)), "")
        file.seek(0)
        with arrow_errors(path):
            if kind == "parquet":
                return ParquetTable(file)
            if kind == "ipc":
                return IpcTable(file)
        raise StoreError(f"{path} {_OTHERS[kind]}")
    except BaseException:
        file.close()
        raise


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
