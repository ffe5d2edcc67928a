"""The files of a gallery: which they are, in which order, and what tells them from changed ones."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from fct_fast.errors import StoreError
from fct_fast.fs import FileSystem

__all__ = ["ENDINGS", "Input", "Memory", "arrow_errors", "content", "fingerprint", "gallery_files"]

ENDINGS = (".parquet", ".arrow", ".feather")
HIDDEN = (".", "_")

_BLOCK = 4096  # bytes of one looked-at place of a file
_BLOCKS = 256  # ... and how many such places a fingerprint looks at, over all files
_FOOTER = 1 << 16  # bytes at the end of each file that a fingerprint looks at


def gallery_files(location: Path) -> list[Path]:
    """The files of a gallery in the order of their names: the file itself, those that a pattern (`data/part-*.parquet`)
    fits, or those in a folder and below it. Names that begin with a dot or an underscore are left out, as all readers
    of such folders do. Raises StoreError where there are none."""
    try:
        if glob.has_magic(str(location)) and not location.exists():
            plain = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), location.parts))
            found = [path for path in plain.glob(str(location.relative_to(plain))) if path.is_file()]
        elif location.is_dir():
            found = []
            for folder, folders, names in os.walk(location, onerror=_raise):
                folders[:] = [name for name in folders if not name.startswith(HIDDEN)]
                found += [Path(folder, name) for name in names if name.endswith(ENDINGS)]
        else:
            location.stat()
            return [location]
    except OSError as error:
        raise StoreError(f"cannot read {location}: {error.strerror}; check the path of the gallery") from error
    found = [path for path in found if not path.name.startswith(HIDDEN)]
    if not found:
        raise StoreError(f"{location} holds no {', '.join(ENDINGS)} file; check the path of the gallery")
    return sorted(found)


class Input:
    """A file as Arrow reads it: by `pread`, so that a file that shrinks is an error.

    It is opened anew for each read, which costs little beside what is read at once, so that nothing is left open.
    Raises StoreError, also where the file is no longer the one that it was at first.
    """

    mode = "rb"

    def __init__(self, path: Path, fs: FileSystem) -> None:
        self.path, self._fs, self._place, self.closed = path, fs, 0, False
        with self._opened() as fd:
            self._state = _state(fd)

    def read_at(self, buffer: memoryview, offset: int) -> None:
        with self._opened() as fd:
            if _state(fd) != self._state:
                raise StoreError(f"{self.path} was changed while it was read; freeze the gallery and run again")
            self._fs.read_at(fd, self.path, buffer, offset)

    def read(self, size: int = -1) -> bytearray:
        left = max(0, self.size() - self._place)
        data = bytearray(left if size is None or size < 0 else min(size, left))
        self.read_at(memoryview(data), self._place)
        self._place += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + (0, self._place, self.size())[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def size(self) -> int:
        return self._state[0]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        fd = self._fs.open_file(self.path)
        try:
            yield fd
        finally:
            self._fs.close_file(fd, self.path)


class Memory(Input):
    """The bytes of a file that was read before."""

    def __init__(self, path: Path, data: bytes | memoryview) -> None:
        self.path, self._data, self._place, self.closed = path, memoryview(data), 0, False

    def read_at(self, buffer: memoryview, offset: int) -> None:
        found = self._data[offset : offset + len(buffer)]
        if len(found) < len(buffer):
            raise StoreError(f"{self.path} ends at byte {len(self._data)}, but {offset + len(buffer)} are needed")
        buffer[:] = found

    def size(self) -> int:
        return len(self._data)


def content(path: Path, fs: FileSystem, most: int = -1) -> bytes:
    """All bytes of a file, or the first ones."""
    return bytes(Input(path, fs).read(most))


@contextlib.contextmanager
def arrow_errors(path: Path | str) -> Iterator[None]:
    """Arrow's errors as a StoreError that names the file."""
    try:
        yield
    except StoreError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        reason = str(error).strip().split("\n")[0][:300] or type(error).__name__
        raise StoreError(
            f"{path} cannot be read ({reason}); it is damaged or not what it is called, restore it"
        ) from error


def fingerprint(files: Sequence[Path], fs: FileSystem) -> dict[str, Any]:
    """Sizes, times and a digest of some blocks and of the end, where the footer is, from the disk as it is now."""
    stats, blocks, size = hashlib.sha256(), hashlib.sha256(), 0
    count = max(2, _BLOCKS // len(files))
    for path in files:
        fd = fs.open_file(path)
        try:
            stat = os.fstat(fd)
            size += stat.st_size
            stats.update(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
            last = max(0, stat.st_size - _BLOCK)
            places = {(last * i // (count - 1), _BLOCK) for i in range(count)}
            for offset, length in sorted(places | {(max(0, stat.st_size - _FOOTER), _FOOTER)}):
                data = bytearray(min(length, stat.st_size - offset))
                fs.read_at(fd, path, memoryview(data), offset)
                blocks.update(data)
        finally:
            fs.close_file(fd, path)
    return {
        "files": len(files),
        "bytes": size,
        "sizes and times": stats.hexdigest(),
        "sample": blocks.hexdigest(),
    }


def _state(fd: int) -> tuple[int, int, int]:
    stat = os.fstat(fd)
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _raise(error: OSError) -> None:
    raise error
