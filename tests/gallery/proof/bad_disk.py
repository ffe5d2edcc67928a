"""A disk that fails at the n-th call of one kind, reads among them; once or for good, with an error or with less done
than asked for."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fct_fast import bundle
from fct_fast.fs import FileSystem

__all__ = ["KINDS", "BadDisk", "in_use"]

KINDS = ("open", "pwrite", "pread", "fsync", "close", "replace", "unlink", "mkdir", "lock")


class BadDisk(FileSystem):
    """kind, fail_at: the call that fails. code: with what, 0 for a short count. for_good: so do all later ones of its
    kind. calls: how many there were of each kind; log: what they were, from the failing one on."""

    def __init__(self, kind: str = "", fail_at: int = 0, code: int = errno.EIO, *, for_good: bool = False) -> None:
        self.kind, self.fail_at, self.code, self.for_good = kind, fail_at, code, for_good
        self.calls: Counter[str] = Counter()
        self.log: list[str] = []

    def _fails(self, kind: str) -> bool:
        """Count a call; raises where it has to fail, returns whether it has to fall short."""
        self.calls[kind] += 1
        if self.log:
            self.log.append(kind)
        late = self.for_good and self.calls[kind] > self.fail_at > 0
        if kind != self.kind or not (self.calls[kind] == self.fail_at or late):
            return False
        self.log = self.log or [kind]
        if self.code:
            raise OSError(self.code, os.strerror(self.code))
        return True

    def open(self, path: Path, flags: int) -> int:
        self._fails("open")
        return super().open(path, flags)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        return super().pwrite(fd, data[: (len(data) + 1) // 2] if self._fails("pwrite") else data, offset)

    def pread(self, fd: int, buffer: memoryview, offset: int) -> int:
        return super().pread(fd, buffer[: (len(buffer) + 1) // 2] if self._fails("pread") else buffer, offset)

    def fsync(self, fd: int) -> None:
        self._fails("fsync")
        super().fsync(fd)

    def close(self, fd: int) -> None:
        super().close(fd)
        self._fails("close")

    def replace(self, source: Path, target: Path) -> None:
        self._fails("replace")
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        self._fails("unlink")
        super().unlink(path)

    def mkdir(self, path: Path) -> None:
        self._fails("mkdir")
        super().mkdir(path)

    def flock(self, fd: int, operation: int) -> None:
        self._fails("lock")
        _flock(fd, operation)


_flock = fcntl.flock


@contextlib.contextmanager
def in_use(disk: BadDisk) -> Iterator[BadDisk]:
    """Let locks and the bundle pass through the disk too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", disk.flock)
        patch.setattr(bundle, "write_atomic", disk.write_atomic)
        yield disk
