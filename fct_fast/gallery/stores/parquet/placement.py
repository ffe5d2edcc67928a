"""Where the parts of a sink are while it is written, and how they appear at the final place: a folder or one file.

All is built beside the final place, under names that carry the job's token, and appears there by one renaming.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

from fct_fast.errors import StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.parquet.dataset import SPACE_FILE
from fct_fast.gallery.stores.parquet.files import Input
from fct_fast.gallery.stores.parquet.joined import JoinedFile, write_joined
from fct_fast.gallery.stores.protocol import Layout, Shard

__all__ = ["FilePlacement", "FolderPlacement", "Placement", "occupied"]


class Placement:
    """The part that both forms share. parts: the folder of the parts while they are written."""

    def __init__(self, path: Path, parts: Path, layout: Layout, fs: FileSystem) -> None:
        self.path, self._parts, self._layout, self._fs = path, parts, layout, fs

    @property
    def published(self) -> bool:
        raise NotImplementedError

    def begin(self) -> None:
        raise NotImplementedError

    def put(self, shard: Shard, data: memoryview) -> None:
        """Put a part on disk."""
        raise NotImplementedError

    def get(self, shard: Shard) -> bytes:
        """Read a part back."""
        raise NotImplementedError

    def file(self, shard: Shard) -> Path:
        """The file that holds a shard at this moment."""
        raise NotImplementedError

    def fault(self, shards: Collection[int]) -> str | None:
        raise NotImplementedError

    def publish(self, space: bytes | None) -> None:
        raise NotImplementedError

    def space(self) -> tuple[bytes, Path] | None:
        """What was stamped on the published gallery, and where."""
        raise NotImplementedError

    def _lacking(self, folder: Path, shards: Collection[int]) -> str | None:
        """A part that is missing, or too small for its vectors alone."""
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)} if folder.is_dir() else {}
        for shard in map(self._layout.shard, shards):
            name, least = part_name(shard), shard.rows * self._layout.dim * self._layout.dtype.itemsize
            if sizes.get(name, 0) < least:
                return f"{folder / name} has {sizes.get(name, 'no')} bytes, but at least {least} were committed"
        return None

    def _appeared(self) -> StoreError:
        return StoreError(f"{self.path} appeared while the job ran; move it away and run the same command again")


class FolderPlacement(Placement):
    """`new/part-000000.parquet` and so on, with the fingerprint in `new/_space.json`."""

    def __init__(self, path: Path, token: str, layout: Layout, fs: FileSystem) -> None:
        super().__init__(path, path.with_name(f"{path.name}.partial-{token}"), layout, fs)

    @property
    def published(self) -> bool:
        return occupied(self.path) and not self._parts.exists()

    def begin(self) -> None:
        self._fs.make_folder(self.path.parent)
        self._fs.flush_folder(self.path.parent)  # a process that was killed may have renamed without
        if not self.published:
            self._fs.make_folder(self._parts)
            remove_leftovers(self._parts, ".", self._fs)

    def put(self, shard: Shard, data: memoryview) -> None:
        self._fs.write_atomic(self.file(shard), data)

    def get(self, shard: Shard) -> bytes:
        return _content(self.file(shard), self._fs)

    def file(self, shard: Shard) -> Path:
        folder = self._parts if self._parts.exists() or not occupied(self.path) else self.path
        return folder / part_name(shard)

    def fault(self, shards: Collection[int]) -> str | None:
        return self._lacking(self.file(self._layout.shard(0)).parent, shards)

    def publish(self, space: bytes | None) -> None:
        if self.published:
            return
        if occupied(self.path):
            raise self._appeared()
        if space is not None:
            self._fs.write_atomic(self._parts / SPACE_FILE, space)
        self._fs.publish(self._parts, self.path)

    def space(self) -> tuple[bytes, Path] | None:
        stamp = self.path / SPACE_FILE
        return (_content(stamp, self._fs), stamp) if stamp.exists() else None


class FilePlacement(Placement):
    """`new.parquet`: the parts are gathered in a folder beside it, and joined at the end.

    Once the joined file is complete it holds all, so the parts are removed; then it is renamed to its final place.
    """

    def __init__(self, path: Path, token: str, layout: Layout, fs: FileSystem) -> None:
        self._joined = path.with_name(f"{path.name}.partial-{token}")
        self._temp = path.with_name(f".{self._joined.name}.tmp")
        super().__init__(path, path.with_name(f"{self._joined.name}.parts"), layout, fs)
        self._open: tuple[tuple[int, ...], JoinedFile] | None = None

    @property
    def published(self) -> bool:
        return occupied(self.path) and not self._joined.exists() and not occupied(self._parts)

    def begin(self) -> None:
        self._fs.make_folder(self.path.parent)
        self._fs.flush_folder(self.path.parent)  # a process that was killed may have renamed without
        self._fs.remove(self._temp)
        if self._whole() is None:
            self._fs.make_folder(self._parts)
            remove_leftovers(self._parts, ".", self._fs)
        else:
            self._remove_parts()

    def put(self, shard: Shard, data: memoryview) -> None:
        whole = self._whole()
        if whole is None:
            self._fs.write_atomic(self._parts / part_name(shard), data)
        else:
            self._read(whole).replace(shard, data)

    def get(self, shard: Shard) -> bytes:
        whole = self._whole()
        return _content(self.file(shard), self._fs) if whole is None else self._read(whole).part(shard)

    def file(self, shard: Shard) -> Path:
        return self._whole() or self._parts / part_name(shard)

    def fault(self, shards: Collection[int]) -> str | None:
        whole = self._whole()
        if whole is None:
            return self._lacking(self._parts, shards)
        try:
            self._read(whole)
        except StoreError as error:
            return str(error)
        return None

    def publish(self, space: bytes | None) -> None:
        if self.published:
            return
        if occupied(self.path):
            raise self._appeared()
        if not self._joined.exists():
            parts = [self._parts / part_name(self._layout.shard(index)) for index in range(self._layout.shards)]
            write_joined(parts, self._temp, space, self._fs)
            self._fs.publish(self._temp, self._joined)
        self._remove_parts()
        if occupied(self.path):
            raise self._appeared()
        self._fs.publish(self._joined, self.path)

    def space(self) -> tuple[bytes, Path] | None:
        found = self._read(self.path).space
        return None if found is None else (found, self.path)

    def _whole(self) -> Path | None:
        """The file that holds all parts, once there is one."""
        return self._joined if self._joined.exists() else self.path if self.published else None

    def _read(self, path: Path) -> JoinedFile:
        """A joined file; its footer is parsed once."""
        try:
            stat = path.stat()
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}; check the path") from error
        state = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if self._open is None or self._open[0] != state or self._open[1].path != path:
            self._open = state, JoinedFile(path, self._layout, self._fs)
        return self._open[1]

    def _remove_parts(self) -> None:
        """On disk before anything else happens, since parts beside the final file would not be told from a job that
        another file came in the way of."""
        if self._parts.is_dir():
            for path in sorted(self._parts.iterdir()):
                self._fs.remove(path)
            self._fs.flush_folder(self._parts)
            with contextlib.suppress(OSError):  # an empty folder does no harm
                self._parts.rmdir()


def part_name(shard: Shard) -> str:
    return f"part-{shard.index:06d}.parquet"


def occupied(path: Path) -> bool:
    """Whether something is there; an empty folder is a place to write to."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def remove_leftovers(folder: Path, start: str, fs: FileSystem) -> None:
    """Temporary files of a process that was killed."""
    for path in folder.iterdir():
        if path.name.startswith(start) and path.name.endswith(".tmp"):
            fs.remove(path)


def _content(path: Path, fs: FileSystem) -> bytes:
    file = Input(path, fs)
    try:
        return bytes(file.read())
    finally:
        file.close()
