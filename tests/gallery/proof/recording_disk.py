"""A disk that writes down all that changes it, and can be made to stop dead or to lose what it was told to flush."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from disk_model import Image

from fct_fast import bundle
from fct_fast.fs import FileSystem
from fct_fast.gallery.job.ledger import Ledger

__all__ = ["Killed", "Log", "RecordingDisk", "attached"]


class Killed(BaseException):
    """The process stops here: no call of it reaches the disk any more."""


class Log:
    """What happened under the folder `root` since this was made: events as `Image.apply` takes them."""

    def __init__(self, root: Path) -> None:
        self.root, self.base, self.now = root, Image(root), Image(root)
        self.events: list[tuple[Any, ...]] = []
        self.handles = 0

    def record(self, name: str, *details: Any) -> None:
        self.now.apply(name, *details)
        self.events.append((name, *details))

    def image(self, cut: int) -> Image:
        """The disk after the first `cut` events."""
        image = self.base.copy()
        for event in self.events[:cut]:
            image.apply(*event)
        return image

    def told(self, cut: int, shown: int = 12) -> str:
        """The last events before a cut, for a message."""
        start = max(0, cut - shown)
        return "\n".join(f"  {start + i} {_line(*event)}" for i, event in enumerate(self.events[start:cut], 1))


def _line(name: str, *details: Any) -> str:
    shown = (
        f"({len(d)} bytes)" if isinstance(d, bytes) else Path(d).name if isinstance(d, Path) else d for d in details
    )
    return " ".join(map(str, [name, *shown]))


class RecordingDisk(FileSystem):
    """kill_at: the process dies just before its n-th change. fail_fsync: the n-th fsync fails, and its pages are lost,
    as Linux does it: the next one would say that all is well."""

    def __init__(self, log: Log, *, kill_at: int = 0, fail_fsync: int = 0) -> None:
        self.log, self.kill_at, self.fail_fsync = log, kill_at, fail_fsync
        self.calls: list[str] = []
        self._handles: dict[int, int] = {}
        self._lock = threading.Lock()

    def step(self, call: str) -> None:
        """One change more; or the end."""
        with self._lock:
            self.calls.append(call)
        if self.kill_at and len(self.calls) >= self.kill_at:
            raise Killed

    def open(self, path: Path, flags: int) -> int:
        changes = bool(flags & os.O_CREAT) and not path.exists() and self._ours(path)
        if changes:
            self.step("open")
        fd = super().open(path, flags)
        if self._ours(path) and flags & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY):
            with self._lock:
                self.log.handles += 1
                self._handles[fd] = self.log.handles
                self.log.record("opened", self.log.handles, path, changes)
        return fd

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self.step("pwrite")
        count = super().pwrite(fd, data, offset)
        self.log.record("pwrite", self._handles[fd], offset, bytes(data[:count]))
        return count

    def truncate(self, fd: int, size: int) -> None:
        self.step("truncate")
        super().truncate(fd, size)
        self.log.record("truncate", self._handles[fd], size)

    def fsync(self, fd: int) -> None:
        if fd not in self._handles:  # a folder above the recorded one
            return
        self.step("fsync folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "fsync")
        if sum(call.startswith("fsync") for call in self.calls) == self.fail_fsync:
            self.log.record("fsync_failed", self._handles[fd])
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.log.record("fsync", self._handles[fd])

    def close(self, fd: int) -> None:
        self._handles.pop(fd, None)
        super().close(fd)

    def replace(self, source: Path, target: Path) -> None:
        self.step("replace")
        if not self.log.now.has(source):  # SQLite made it
            self.log.record("appeared", source, source.read_bytes())
        super().replace(source, target)
        self.log.record("replace", source, target)

    def unlink(self, path: Path) -> None:
        self.step("unlink")
        super().unlink(path)
        if self.log.now.has(path):
            self.log.record("unlink", path)

    def mkdir(self, path: Path) -> None:
        self.step("mkdir")
        super().mkdir(path)
        self.log.record("mkdir", path)

    def commit(self, ledger: Ledger) -> None:
        """SQLite writes its own file, and flushes it at each commit."""
        self.log.record("committed", ledger.path, ledger.path.read_bytes())

    def _ours(self, path: Path) -> bool:
        return path.is_relative_to(self.log.root)


@contextlib.contextmanager
def attached(disk: RecordingDisk) -> Iterator[RecordingDisk]:
    """Show the disk what does not pass through it: commits of the ledger, which SQLite makes, and the bundle."""

    def shown(act: Callable[..., None]) -> Callable[..., None]:
        def acted(ledger: Ledger, *arguments: Any, **named: Any) -> None:
            disk.step("commit")
            act(ledger, *arguments, **named)
            disk.commit(ledger)

        return acted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "commit", shown(Ledger.commit))
        patch.setattr(Ledger, "note", shown(Ledger.note))
        patch.setattr(bundle, "write_atomic", disk.write_atomic)
        yield disk
