"""What a job has committed, looked at through a disk that gives back other bytes than were written."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from fct_fast.errors import StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.job.ledger import Ledger
from fct_fast.gallery.job.session import Session

__all__ = ["FlippingDisk", "Shard0", "content"]


class FlippingDisk(FileSystem):
    """Gives back one bit of one file flipped; and says which files were opened."""

    def __init__(self) -> None:
        self.opened: list[Path] = []
        self.path, self.byte, self.mask = Path(), 0, 0
        self._fd = -1

    def flip(self, path: Path, bit: int) -> None:
        self.path, self.byte, self.mask = path, bit // 8, 1 << bit % 8

    def open(self, path: Path, flags: int) -> int:
        fd = super().open(path, flags)
        self.opened.append(path)
        self._fd = fd if path == self.path else -1 if fd == self._fd else self._fd
        return fd

    def pread(self, fd: int, buffer: memoryview, offset: int) -> int:
        count = super().pread(fd, buffer, offset)
        if fd == self._fd and offset <= self.byte < offset + count:
            buffer[self.byte - offset] ^= self.mask
        return count


class Shard0:
    """The first shard of a job, as a resumed run and a verification see it."""

    def __init__(self, job: Session) -> None:
        self._sink, self._shard = job.sink, job.plan.layout.shard(0)
        self._digest, self.whole = job.ledger.record(0).digest, self._sink.load(self._shard)

    def reported(self) -> bool:
        """Whether damage is noticed now: the shard does not load, or has another digest than was committed."""
        try:
            loaded = self._sink.load(self._shard)
        except StoreError:
            return True
        return loaded.digest != self._digest

    def harmless(self) -> bool:
        """Whether what loads now is equal to what was written, in rows and ids."""
        loaded, whole = self._sink.load(self._shard), self.whole
        pairs: list[tuple[Any, Any]] = [(loaded.new, whole.new), (loaded.ids, whole.ids)]
        return all(np.array_equal(found, written) for found, written in pairs)


def content(path: Path) -> Any:
    """All that a ledger answers."""
    with contextlib.closing(Ledger.open(path)) as ledger:
        records = [(r.shard, r.digest, r.time, r.flagged.tolist()) for r in ledger.records()]
        return ledger.plan, ledger.state, ledger.done, records
