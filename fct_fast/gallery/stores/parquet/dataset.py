"""A gallery's files taken together: one schema, row counts, and the columns that folder names (`lang=en/`) give."""

from __future__ import annotations

import glob
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from fct_fast.errors import CorruptError, ShapeError, SpaceError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.parquet.cursor import File
from fct_fast.gallery.stores.parquet.files import content, gallery_files
from fct_fast.gallery.stores.parquet.tables import Table, open_table
from fct_fast.space import SpaceFingerprint

__all__ = ["SPACE_FILE", "SPACE_KEY", "Dataset", "parse_space"]

SPACE_FILE = "_space.json"  # in a folder; readers of such folders leave names with an underscore out
SPACE_KEY = b"fct_fast.space"  # in the metadata of a single file

_NULL = "__HIVE_DEFAULT_PARTITION__"
_MAX_SPACE_BYTES = 16 << 20


@dataclass(frozen=True)
class Dataset:
    """path: as it was named; schema: of all columns, those of folder names last; held_bytes: of the largest piece that
    has to be read at once."""

    path: Path
    files: tuple[File, ...]
    schema: pa.Schema
    held_bytes: int
    fs: FileSystem

    @classmethod
    def open(cls, path: Path, fs: FileSystem) -> Dataset:
        """Look at all files. Raises StoreError where one cannot be read or there are no rows, ShapeError where their
        columns differ."""
        paths = gallery_files(path)
        keys, fields = _folder_keys(path, paths)
        files: list[File] = []
        schema, held = None, 0
        for file, given in zip(paths, keys, strict=True):
            table = open_table(file, fs)
            if schema is None:
                schema = _distinct(table.schema, file)
            _require_same(schema, table.schema, paths[0], file)
            held = max(held, table.held_bytes)
            kept = {name: value for name, value in given.items() if name not in schema.names}
            files.append(File(file, table.rows, kept))
        assert schema is not None
        for field in fields:
            schema = schema.append(field) if field.name not in schema.names else schema
        if not any(rows for file in files for rows in file.groups):
            raise StoreError(f"{path} has no rows; there is nothing to upgrade")
        return cls(path, tuple(files), schema, held, fs)

    @property
    def rows(self) -> int:
        return sum(rows for file in self.files for rows in file.groups)

    @property
    def stored(self) -> list[str]:
        """The names of the columns that stand in the files."""
        return [name for name in self.schema.names if name not in self.files[0].keys]

    def table(self) -> tuple[Table, int]:
        """The first file with rows, opened, and its first group that has some."""
        file = next(file for file in self.files if any(file.groups))
        return open_table(file.path, self.fs), next(i for i, rows in enumerate(file.groups) if rows)

    def space(self, dim: int) -> SpaceFingerprint | None:
        """The fingerprint that the gallery carries. Raises CorruptError, and SpaceError where it is not of `dim`."""
        stamp: Path = self.path / SPACE_FILE
        where, data = f"{self.path}", (self.schema.metadata or {}).get(SPACE_KEY)
        if self.path.is_dir():
            where, data = str(stamp), content(stamp, self.fs, _MAX_SPACE_BYTES + 1) if stamp.exists() else None
        if data is None:
            return None
        space = parse_space(data, where)
        if space.dim != dim:
            raise SpaceError(
                f"{where} describes rows of {space.dim} values, but {self.path} has {dim}; delete or correct the "
                f"fingerprint"
            )
        return space


def parse_space(data: bytes, where: str) -> SpaceFingerprint:
    """The fingerprint that was stamped on `where`. Raises CorruptError."""
    try:
        if len(data) > _MAX_SPACE_BYTES:
            raise ValueError("too long")
        return SpaceFingerprint.from_json(json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptError(f"{where} holds no space fingerprint ({error}); delete it or write it anew") from error


def _folder_keys(location: Path, paths: Sequence[Path]) -> tuple[list[dict[str, Any]], list[pa.Field]]:
    """What the folders between the gallery and each file say, and the columns that this makes: numbers where all values
    are some, else text."""
    base = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), location.parts))
    found: list[dict[str, Any]] = []
    for path in paths:
        parts = path.relative_to(base).parent.parts if path != base else ()
        pairs = [part.split("=", 1) for part in parts if "=" in part]
        found.append({unquote(key): None if value == _NULL else unquote(value) for key, value in pairs})
    for path, keys in zip(paths, found, strict=True):
        if list(keys) != list(found[0]):
            raise ShapeError(
                f"the folders of {path} name {', '.join(keys) or 'no column'}, but those of {paths[0]} "
                f"{', '.join(found[0]) or 'none'}; all files must lie in folders of the same kind"
            )
    fields = []
    for name in found[0]:
        values = {keys[name] for keys in found if keys[name] is not None}
        number = bool(values) and all(value.isascii() and value.removeprefix("-").isdigit() for value in values)
        number = number and all(-(1 << 31) <= int(value) < 1 << 31 for value in values)
        fields.append(pa.field(name, pa.int32() if number else pa.string()))
        for keys in found:
            keys[name] = int(keys[name]) if number and keys[name] is not None else keys[name]
    return found, fields


def _distinct(schema: pa.Schema, path: Path) -> pa.Schema:
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise ShapeError(f"{path} has two columns of the name {twice!r:.80}; rename one")
    return schema


def _require_same(first: pa.Schema, other: pa.Schema, first_path: Path, path: Path) -> None:
    """Raise ShapeError where two files do not have the same columns; their order and metadata may differ."""
    types: list[Mapping[str, pa.DataType]] = [{field.name: field.type for field in s} for s in (first, other)]
    for name in dict.fromkeys([*types[0], *types[1]]):
        here, there = (str(found.get(name, "missing")) for found in types)
        if types[0].get(name) != types[1].get(name):
            raise ShapeError(
                f"the column {name!r:.80} is {there} in {path}, but {here} in {first_path}; all files must agree"
            )
