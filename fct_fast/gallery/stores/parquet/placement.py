"""Where the parts of a sink are while it is written, and how they appear at the final place: a folder or one file.

All is built beside the final place, under names that carry the job's token, and appears there by one renaming.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from fct_fast.errors import CorruptError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.parquet.dataset import SPACE_FILE
from fct_fast.gallery.stores.parquet.files import Memory, content
from fct_fast.gallery.stores.parquet.footer import footer_bytes
from fct_fast.gallery.stores.parquet.joined import JoinedFile, write_joined
from fct_fast.gallery.stores.protocol import Layout, Shard

__all__ = ["FilePlacement", "FolderPlacement", "Placement", "occupied"]

HEAD = 4096  # bytes by which a file is known that cannot be read


class Placement:
    """What both forms share. path: the final place."""

    def __init__(self, path: Path, layout: Layout, fs: FileSystem) -> None:
        self.path, self._layout, self._fs = path, layout, fs

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

    def _lacking(self, files: Iterable[tuple[Path, Shard]]) -> str | None:
        """A file that is missing, or too small for the vectors of its shard alone."""
        for path, shard in files:
            least = shard.rows * self._layout.dim * self._layout.dtype.itemsize
            size = path.stat().st_size if path.exists() else 0
            if size < least:
                return f"{path} has {size or 'no'} bytes, but at least {least} were committed"
        return None

    def _appeared(self) -> StoreError:
        return StoreError(f"{self.path} appeared while the job ran; move it away and run the same command again")


class FolderPlacement(Placement):
    """`new/part-000000.parquet` and so on, with the fingerprint in `new/_space.json`."""

    def __init__(self, path: Path, token: str, layout: Layout, fs: FileSystem) -> None:
        super().__init__(path, layout, fs)
        self._partial = path.with_name(f"{path.name}.partial-{token}")

    @property
    def published(self) -> bool:
        return occupied(self.path) and not self._partial.exists()

    def begin(self) -> None:
        self._fs.make_folder(self.path.parent)
        self._fs.flush_folder(self.path.parent)  # a process that was killed may have renamed without
        if not self.published:
            self._fs.make_folder(self._partial)
            remove_leftovers(self._partial, ".", self._fs)

    def put(self, shard: Shard, data: memoryview) -> None:
        self._fs.write_atomic(self.file(shard), data)

    def get(self, shard: Shard) -> bytes:
        return content(self.file(shard), self._fs)

    def file(self, shard: Shard) -> Path:
        folder = self._partial if self._partial.exists() or not occupied(self.path) else self.path
        return folder / f"part-{shard.index:06d}.parquet"

    def fault(self, shards: Collection[int]) -> str | None:
        return self._lacking([(self.file(shard), shard) for shard in map(self._layout.shard, shards)])

    def publish(self, space: bytes | None) -> None:
        if self.published:
            return
        if occupied(self.path):
            raise self._appeared()
        if space is not None:
            self._fs.write_atomic(self._partial / SPACE_FILE, space)
        self._fs.publish(self._partial, self.path)

    def space(self) -> tuple[bytes, Path] | None:
        stamp = self.path / SPACE_FILE
        return (content(stamp, self._fs), stamp) if stamp.exists() else None


class FilePlacement(Placement):
    """`new.parquet`: the parts are gathered in files beside it, and joined at the end.

    Once the joined file is complete it holds all, so the parts are removed; then it is renamed to its final place.
    """

    def __init__(self, path: Path, token: str, layout: Layout, fs: FileSystem) -> None:
        super().__init__(path, layout, fs)
        self._joined = path.with_name(f"{path.name}.partial-{token}")
        self._temp = path.with_name(f".{self._joined.name}.tmp")
        self._begun = path.with_name(f"{self._joined.name}.begun")
        self._open: tuple[tuple[int, ...], JoinedFile] | None = None

    @property
    def published(self) -> bool:
        return occupied(self.path) and not self._joined.exists() and not self._parts()

    def begin(self) -> None:
        self._fs.make_folder(self.path.parent)
        self._fs.flush_folder(self.path.parent)  # a process that was killed may have renamed without
        remove_leftovers(self.path.parent, f".{self._joined.name}.", self._fs)
        if self._joined.exists():
            self._remove_parts()
        elif not self.published and not self._begun.exists():  # from now on, what appears at the place is not ours
            self._fs.write_atomic(self._begun)

    def put(self, shard: Shard, data: memoryview) -> None:
        whole = self._whole()
        if whole is not None:
            try:
                self._read(whole).replace(shard, data)
                return
            except CorruptError as error:
                if not self._begins_with(whole, shard, data):
                    raise StoreError(
                        f"{whole} is not what this job wrote there; move it away and run the same command again"
                    ) from error
                self._fs.remove(whole)  # no reader finds anything in it: it is built anew
        self._fs.write_atomic(self._part(shard), data)

    def get(self, shard: Shard) -> bytes:
        whole = self._whole()
        return content(self._part(shard), self._fs) if whole is None else self._read(whole).part(shard)

    def file(self, shard: Shard) -> Path:
        return self._whole() or self._part(shard)

    def fault(self, shards: Collection[int]) -> str | None:
        whole = self._whole()
        if whole is None:
            return self._lacking([(self._part(shard), shard) for shard in map(self._layout.shard, shards)])
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
            parts = [self._part(self._layout.shard(index)) for index in range(self._layout.shards)]
            write_joined(parts, self._temp, space, self._fs)
            self._fs.publish(self._temp, self._joined)
        self._remove_parts()
        if occupied(self.path):
            raise self._appeared()
        self._fs.publish(self._joined, self.path)

    def space(self) -> tuple[bytes, Path] | None:
        found = self._read(self.path).space
        return None if found is None else (found, self.path)

    def _part(self, shard: Shard) -> Path:
        return self._joined.with_name(f"{self._joined.name}.{shard.index:06d}")

    def _parts(self) -> list[Path]:
        """The parts that are there, and the mark that they were begun."""
        start = f"{self._joined.name}."
        return [
            self.path.with_name(entry.name)
            for entry in os.scandir(self.path.parent)
            if entry.name[: len(start)] == start
        ]

    def _remove_parts(self) -> None:
        """On disk before anything else happens: parts beside the final file would look as if it was another's."""
        for path in self._parts():
            self._fs.remove(path)
        self._fs.flush_folder(self.path.parent)

    def _begins_with(self, whole: Path, shard: Shard, data: memoryview) -> bool:
        """Whether a file that cannot be read is one of ours, cut short or damaged at its end."""
        size = min(HEAD, footer_bytes(Memory(whole, data))[1])
        found = content(whole, self._fs, size)
        return shard.index == 0 and found == data[: len(found)]

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


def occupied(path: Path) -> bool:
    """Whether something is there; an empty folder is a place to write to."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def remove_leftovers(folder: Path, start: str, fs: FileSystem) -> None:
    """Temporary files of a process that was killed."""
    for path in folder.iterdir():
        if path.name.startswith(start) and path.name.endswith(".tmp"):
            fs.remove(path)
