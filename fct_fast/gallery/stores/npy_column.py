"""One column of rows in .npy files: a single file, or a folder of shards in the order of their names."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fct_fast.errors import DtypeError, ShapeError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.npy_format import PROBE, NpyHeader, parse_npy_header
from fct_fast.gallery.stores.protocol import Array

__all__ = ["NpyColumn", "NpyFile", "byte_view", "ids_path", "npy_files", "space_path"]

_BLOCK = 4096  # bytes of one looked-at place of a file
_BLOCKS = 256  # ... and how many such places an identity looks at, over all files

VECTOR_DTYPES = (np.dtype("<f4"), np.dtype("<f2"))


def byte_view(rows: Array) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return memoryview(cast(Any, rows.view(np.uint8).reshape(-1)))


def ids_path(vectors: Path) -> Path:
    """The sidecar with the ids of a .npy file of vectors."""
    return vectors.with_name(vectors.stem + ".ids.npy")


def space_path(gallery: Path) -> Path:
    """The sidecar with the space fingerprint of a .npy file, or of a folder of them."""
    return gallery / "space.json" if gallery.suffix != ".npy" else gallery.with_name(gallery.stem + ".space.json")


def npy_files(path: Path, *, ids: bool = False) -> list[Path]:
    """The files of a gallery in the order of their names: the file itself, those that a pattern (`part-*.npy`) fits, or
    the .npy files of the folder; without the sidecars of ids unless `ids` are what is looked for."""
    try:
        if glob.has_magic(path.name) and not path.exists():
            found = sorted(path.parent.glob(path.name))
        elif path.is_dir():
            found = sorted(path / entry.name for entry in os.scandir(path) if entry.is_file())
        else:
            path.stat()
            return [path]
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}; check the path of the gallery") from error
    found = [file for file in found if file.suffix == ".npy" and file.name[0] != "."]
    found = [file for file in found if ids or not file.name.endswith(".ids.npy")]
    if not found:
        raise StoreError(f"{path} holds no .npy file; give a .npy file or a folder of them")
    return found


@dataclass(frozen=True)
class NpyFile:
    path: Path
    header: NpyHeader
    size: int

    @classmethod
    def open(cls, path: Path, fs: FileSystem) -> NpyFile:
        """Read and check the header. Raises what `parse_npy_header` raises, StoreError where the file cannot be
        read."""
        fd = fs.open_file(path)
        try:
            size = os.fstat(fd).st_size
            head = bytearray(min(size, PROBE))
            fs.read_at(fd, path, memoryview(head), 0)
        finally:
            fs.close_file(fd, path)
        return cls(path, parse_npy_header(bytes(head), size, path), size)


class NpyColumn:
    """The rows of some .npy files, one after the other; all of one dtype and width."""

    def __init__(self, files: Sequence[NpyFile], fs: FileSystem) -> None:
        first = files[0]
        for file in files[1:]:
            if (file.header.dtype, file.header.shape[1:]) != (first.header.dtype, first.header.shape[1:]):
                raise ShapeError(
                    f"{file.path} holds {file.header.dtype} rows of {list(file.header.shape[1:])}, but {first.path} "
                    f"holds {first.header.dtype} rows of {list(first.header.shape[1:])}; all shards must agree"
                )
        self.files, self._fs = tuple(files), fs
        self.dtype, self.shape = first.header.dtype, first.header.shape[1:]
        self._starts = np.concatenate([[0], np.cumsum([file.header.shape[0] for file in files])])

    @classmethod
    def vectors(cls, path: Path, fs: FileSystem) -> NpyColumn:
        """A column of float32 or float16 rows [n, dim]."""
        files = [NpyFile.open(file, fs) for file in npy_files(path)]
        for file in files:
            if len(file.header.shape) != 2 or file.header.shape[1] < 1:
                raise ShapeError(f"{file.path} has the shape {list(file.header.shape)}; embeddings must be [rows, dim]")
            if file.header.dtype not in VECTOR_DTYPES:
                raise DtypeError(f"{file.path} holds {file.header.dtype}; save the embeddings as float32 or float16")
        return cls(files, fs)

    @classmethod
    def ids(cls, paths: Sequence[Path], fs: FileSystem) -> NpyColumn:
        """A column of ids [n] of any plain dtype."""
        files = [NpyFile.open(path, fs) for path in paths]
        for file in files:
            if len(file.header.shape) != 1 or file.header.dtype.itemsize == 0:
                raise ShapeError(f"{file.path} has the shape {list(file.header.shape)}; ids must be one value a row")
        return cls(files, fs)

    @property
    def rows(self) -> int:
        return int(self._starts[-1])

    @property
    def dim(self) -> int:
        return int(self.shape[0])

    @property
    def row_bytes(self) -> int:
        return self.files[0].header.row_bytes

    def read(self, start: int, stop: int) -> Array:
        """Rows start to stop, [n, dim] or [n]."""
        out = np.empty((stop - start, *self.shape), self.dtype)
        view = byte_view(out)
        done = 0
        for number in range(int(np.searchsorted(self._starts, start, "right")) - 1, len(self.files)):
            low, high = int(self._starts[number]), int(self._starts[number + 1])
            if low >= stop:
                break
            count = (min(high, stop) - max(low, start)) * self.row_bytes
            with self._open(number) as fd:
                file = self.files[number]
                offset = file.header.offset + (max(low, start) - low) * self.row_bytes
                self._fs.read_at(fd, file.path, view[done : done + count], offset)
            done += count
        return out

    def take(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> Array:
        """The rows at some positions, in the order given."""
        wanted = np.asarray(positions, np.int64)
        out = np.empty((len(wanted), *self.shape), self.dtype)
        numbers = np.searchsorted(self._starts, wanted, "right") - 1
        for number in np.unique(numbers).tolist():
            file = self.files[number]
            with self._open(number) as fd:
                for i in np.flatnonzero(numbers == number).tolist():
                    offset = file.header.offset + int(wanted[i] - self._starts[number]) * self.row_bytes
                    self._fs.read_at(fd, file.path, byte_view(out[i : i + 1]), offset)
        return out

    def locate(self, row: int) -> str:
        """The file of a row, and the row's number in it, for messages."""
        number = int(np.searchsorted(self._starts, row, "right")) - 1
        return f"row {row - int(self._starts[number])} of {self.files[number].path}"

    def identity(self) -> dict[str, Any]:
        """Sizes, times and a digest of some blocks, from the disk as it is now."""
        stats, blocks = hashlib.sha256(), hashlib.sha256()
        for number, file in enumerate(self.files):
            with self._open(number) as fd:
                stat = os.fstat(fd)
                stats.update(
                    f"{file.path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogateescape")
                )
                for offset in _places(stat.st_size, max(2, _BLOCKS // len(self.files))):
                    block = bytearray(min(_BLOCK, stat.st_size - offset))
                    self._fs.read_at(fd, file.path, memoryview(block), offset)
                    blocks.update(block)
        return {
            "files": len(self.files),
            "rows": self.rows,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "bytes": sum(file.size for file in self.files),
            "sizes and times": stats.hexdigest(),
            "sample": blocks.hexdigest(),
        }

    @contextlib.contextmanager
    def _open(self, number: int) -> Iterator[int]:
        path = self.files[number].path
        fd = self._fs.open_file(path)
        try:
            yield fd
        finally:
            self._fs.close_file(fd, path)


def _places(size: int, count: int) -> list[int]:
    """Offsets of `count` blocks spread over a file, its first and its last among them."""
    last, count = max(0, size - _BLOCK), max(2, min(count, -(-size // _BLOCK)))
    return sorted({last * i // (count - 1) for i in range(count)})
