"""A disk that keeps its promises and no more: what POSIX lets a power cut leave, as a model in memory.

Of a file, every 512-byte sector holds one of the contents that it had since it was last flushed, whatever the others
hold; its size is any that it passed through, and where the size grew and the bytes did not arrive there are zeros or
rubbish. Of a folder, each creation, renaming and removal since it was last flushed has happened or not, whatever the
others did. A sector and a renaming are whole: there is no half of one.
"""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

__all__ = ["SECTOR", "Image", "Keep", "Tree", "read_tree", "write_tree"]

SECTOR = 512

Tree: TypeAlias = "dict[str, Tree | bytes]"
Keep = Literal["none", "all", "some", "mixed"]
"""Of what was not flushed: nothing, all of it, or any part; "mixed" draws one of these for each file and folder."""


class File:
    """sectors: for each one the contents that the disk may hold, from the flushed one to the newest (None: it was never
    written). sizes: in the same way. lost: sectors that a failed fsync gave up, which no later one will flush."""

    def __init__(self, data: bytes = b"") -> None:
        self.sectors: list[list[bytes | None]] = [
            [data[start : start + SECTOR].ljust(SECTOR, b"\0")] for start in range(0, len(data), SECTOR)
        ]
        self.sizes = [len(data)]
        self.lost: set[int] = set()

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        while len(self.sectors) * SECTOR < end:
            self.sectors.append([None])
        for number in range(offset // SECTOR, -(-end // SECTOR)):
            start = number * SECTOR
            content = bytearray(self.sectors[number][-1] or bytes(SECTOR))
            low, high = max(offset, start), min(end, start + SECTOR)
            content[low - start : high - start] = data[low - offset : high - offset]
            self.sectors[number].append(bytes(content))
            self.lost.discard(number)
        if end > self.sizes[-1]:
            self.sizes.append(end)

    def truncate(self, size: int) -> None:
        self.sizes.append(size)

    def flush(self) -> None:
        for number, versions in enumerate(self.sectors):
            if number not in self.lost:
                del versions[:-1]
        del self.sizes[:-1]

    def lose(self) -> None:
        """A failed fsync: the kernel calls the pages clean, and they never reached the disk."""
        self.lost |= {number for number, versions in enumerate(self.sectors) if len(versions) > 1}

    def after_cut(self, keep: Keep, rng: np.random.Generator) -> bytes:
        keep = _drawn(keep, rng)
        if keep == "some":
            between = range(self.sizes[0] // SECTOR + 1, self.sizes[-1] // SECTOR + 1)
            size = int(rng.choice([*self.sizes, *(number * SECTOR for number in between)]))
            chosen = [versions[int(rng.integers(len(versions)))] for versions in self.sectors]
        else:
            newest = -1 if keep == "all" else 0
            size, chosen = self.sizes[newest], [versions[newest] for versions in self.sectors]
        rubbish = rng.random() < 0.5
        blank = rng.bytes(SECTOR) if rubbish else bytes(SECTOR)
        return b"".join(blank if content is None else content for content in chosen)[:size]


class Folder:
    """flushed: the entries that are on disk for certain. entries: those that are seen now. changes: (name that goes,
    name that comes, what it is about) of each change between the two, oldest first."""

    def __init__(self, entries: dict[str, File | Folder] | None = None) -> None:
        self.flushed = dict(entries or {})
        self.entries = dict(entries or {})
        self.changes: list[tuple[str | None, str | None, File | Folder]] = []

    def change(self, goes: str | None, comes: str | None, node: File | Folder) -> None:
        self.changes.append((goes, comes, node))
        _apply(self.entries, goes, comes, node)

    def flush(self) -> None:
        self.flushed = dict(self.entries)
        self.changes.clear()

    def after_cut(self, data: Keep, names: Keep, rng: np.random.Generator) -> Tree:
        keep, entries = _drawn(names, rng), dict(self.flushed)
        for change in self.changes:
            if keep == "all" or (keep == "some" and rng.random() < 0.5):
                _apply(entries, *change)
        return {
            name: node.after_cut(data, rng) if isinstance(node, File) else node.after_cut(data, names, rng)
            for name, node in entries.items()
        }


class Image:
    """The disk under one folder, `root`. It starts with what is there now, all of it flushed; `apply` replays what was
    recorded after that."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._top = _folder_of(read_tree(root))
        self._handles: dict[int, File | Folder] = {}

    def copy(self) -> Image:
        return copy.deepcopy(self)

    def apply(self, name: str, *details: Any) -> None:
        getattr(self, f"_{name}")(*details)

    def after_cut(self, data: Keep, names: Keep, rng: np.random.Generator) -> Tree:
        """What a power cut at this moment may leave: of the unflushed bytes and of the unflushed entries, `data` and
        `names`."""
        return self._top.after_cut(data, names, rng)

    def has(self, path: Path) -> bool:
        """Whether something is seen at `path` now."""
        return path.name in self._parent(path).entries

    def _opened(self, handle: int, path: Path, created: bool) -> None:
        if created:
            self._parent(path).change(None, path.name, File())
        self._handles[handle] = self._at(path)

    def _pwrite(self, handle: int, offset: int, data: bytes) -> None:
        self._file(handle).write(offset, data)

    def _truncate(self, handle: int, size: int) -> None:
        self._file(handle).truncate(size)

    def _fsync(self, handle: int) -> None:
        self._handles[handle].flush()

    def _fsync_failed(self, handle: int) -> None:
        node = self._handles[handle]
        if isinstance(node, File):  # entries wait for the next transaction of the file system
            node.lose()

    def _replace(self, source: Path, target: Path) -> None:
        assert source.parent == target.parent, "renaming between folders is not modelled"
        self._parent(source).change(source.name, target.name, self._at(source))

    def _unlink(self, path: Path) -> None:
        self._parent(path).change(path.name, None, self._at(path))

    def _mkdir(self, path: Path) -> None:
        self._parent(path).change(None, path.name, Folder())

    def _appeared(self, path: Path, data: bytes) -> None:
        """Another program made a file here and flushed it, but not its entry."""
        self._parent(path).change(None, path.name, File(data))

    def _committed(self, path: Path, data: bytes) -> None:
        """A transaction of SQLite: with synchronous=FULL it flushes its files and, for the journal's sake, the
        folder."""
        self._parent(path).entries[path.name] = File(data)
        self._parent(path).flush()

    def _at(self, path: Path) -> File | Folder:
        node: File | Folder = self._top
        for part in path.relative_to(self.root).parts:
            assert isinstance(node, Folder)
            node = node.entries[part]
        return node

    def _parent(self, path: Path) -> Folder:
        parent = self._at(path.parent)
        assert isinstance(parent, Folder)
        return parent

    def _file(self, handle: int) -> File:
        node = self._handles[handle]
        assert isinstance(node, File)
        return node


def read_tree(root: Path) -> Tree:
    return {path.name: read_tree(path) if path.is_dir() else path.read_bytes() for path in sorted(root.iterdir())}


def write_tree(root: Path, tree: Tree) -> None:
    """Make `root` hold `tree` and nothing else; all files are of one age."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name, content in tree.items():
        if isinstance(content, bytes):
            (root / name).write_bytes(content)
            os.utime(root / name, (0, 0))
        else:
            write_tree(root / name, content)


def _folder_of(tree: Tree) -> Folder:
    return Folder({name: File(node) if isinstance(node, bytes) else _folder_of(node) for name, node in tree.items()})


def _apply(entries: dict[str, File | Folder], goes: str | None, comes: str | None, node: File | Folder) -> None:
    if goes is not None and entries.get(goes) is node:
        del entries[goes]
    if comes is not None:
        entries[comes] = node


def _drawn(keep: Keep, rng: np.random.Generator) -> Keep:
    if keep != "mixed":
        return keep
    choices: tuple[Keep, ...] = ("none", "all", "some")
    return choices[int(rng.integers(3))]
