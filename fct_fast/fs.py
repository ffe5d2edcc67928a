"""Durable files: the only code of the package that writes them (SQLite keeps its own file, the ledger).

The rules, each of which a crash taught somebody (Pillai et al., OSDI 2014; the fsync reports of 2018 in PostgreSQL):
a new file is written beside its place, flushed, renamed, and then its folder is flushed; bytes go out by `pwrite` in a
loop, since a write may be short; an error of any call ends the job, and `fsync` is never tried twice, since after a
failure the kernel may call pages clean that never reached the disk. Input is read by `pread`, never mapped, so a file
that shrinks is an error and not a SIGBUS.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from fct_fast.errors import StoreError

__all__ = ["DISK", "FileSystem", "write_atomic"]

Bytes: TypeAlias = bytes | bytearray | memoryview

_MAX_WRITE = 16 << 20  # one call writes at most this, so that a thread notices a stop in good time

_HINTS = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "raise the quota or free some space, and run the same command again",
    errno.EFBIG: "raise the file size limit, or write a folder of shards instead of one file",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "choose a place that can be written",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is a file, not a folder",
    errno.EISDIR: "check the path: it is a folder, not a file",
    errno.EIO: "the disk reports a fault; check it before running again",
}


class FileSystem:
    """What the package asks of a disk.

    The first group of methods is one system call each; a test overrides them to fail or to stop at the n-th call. The
    second group is what the package uses, built on the first; every OSError leaves it as a StoreError with a sentence.
    """

    # One system call each.

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o666)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def pread(self, fd: int, buffer: memoryview, offset: int) -> int:
        return os.preadv(fd, [buffer], offset)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def truncate(self, fd: int, size: int) -> None:
        os.truncate(fd, size)

    def replace(self, source: Path, target: Path) -> None:
        source.replace(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def mkdir(self, path: Path) -> None:
        path.mkdir()

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    # What the package uses.

    def write_atomic(self, path: str | os.PathLike[str], *chunks: Bytes) -> None:
        """Write `chunks` one after the other as the whole content of `path`: afterwards the new content is on disk, or,
        after any error or crash, the old one (or none) is still there.

        Raises StoreError, and leaves no temporary file behind unless the process is killed.
        """
        path = Path(path)
        temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with _sentence("write", path):
            fd = self.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                try:
                    offset = 0
                    for chunk in chunks:
                        offset += self._pwrite_all(fd, chunk, offset)
                    self.fsync(fd)
                finally:
                    self.close(fd)
                self.replace(temp, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    self.unlink(temp)
                raise
            self._fsync_folder(path.parent)

    def open_file(self, path: Path, *, write: bool = False) -> int:
        """A file descriptor of `path`; with `write` the file may be changed and is created where it is missing."""
        with _sentence("open", path):
            return self.open(path, os.O_RDWR | os.O_CREAT if write else os.O_RDONLY)

    def close_file(self, fd: int, path: Path) -> None:
        with _sentence("close", path):
            self.close(fd)

    def write_at(self, fd: int, path: Path, data: Bytes, offset: int) -> None:
        """Write all of `data` at `offset`; on disk only after `flush`."""
        with _sentence("write", path):
            self._pwrite_all(fd, data, offset)

    def shorten(self, fd: int, path: Path, size: int) -> None:
        """Cut off what a file has beyond `size` bytes; on disk only after `flush`."""
        with _sentence("write", path):
            if os.fstat(fd).st_size > size:
                self.truncate(fd, size)

    def flush(self, fd: int, path: Path) -> None:
        """Put what was written to the file on disk. Never call it again for the same bytes after an error."""
        with _sentence("flush", path):
            self.fsync(fd)

    def read_at(self, fd: int, path: Path, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset` on; a file that ends before is a StoreError."""
        done = 0
        with _sentence("read", path):
            while done < len(buffer):
                count = self.pread(fd, buffer[done : done + _MAX_WRITE], offset + done)
                if count == 0:
                    raise StoreError(
                        f"{path} ends at byte {offset + done}, but {offset + len(buffer)} bytes are needed: it was cut "
                        f"short; restore the file and run again"
                    )
                done += count

    def publish(self, source: Path, target: Path) -> None:
        """Rename a flushed file or folder to its final name and put the rename on disk."""
        with _sentence("rename", source, f"to {target}"):
            self.replace(source, target)
            self._fsync_folder(target.parent)

    def flush_folder(self, path: Path) -> None:
        """Put the entries of a folder on disk: also those that a process made which was killed before it could."""
        with _sentence("flush", path):
            self._fsync_folder(path)

    def remove(self, path: Path) -> None:
        """Delete a file if it is there."""
        with _sentence("delete", path), contextlib.suppress(FileNotFoundError):
            self.unlink(path)

    def make_folder(self, path: Path) -> None:
        """Create `path` and its missing parents, and put each on disk: also one that is there, since a process that
        was killed may have made it and no more."""
        if path.is_dir():
            if os.access(path.parent, os.R_OK):  # otherwise no process of ours can have made it
                self.flush_folder(path.parent)
            return
        if path.parent != path:
            self.make_folder(path.parent)
        with _sentence("create the folder", path):
            with contextlib.suppress(FileExistsError):
                self.mkdir(path)
            if not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            self._fsync_folder(path.parent)

    def lock(self, path: Path, *, shared: bool = False) -> int | None:
        """Lock the file `path` (created where missing) without waiting: the descriptor that holds the lock until it is
        closed or the process ends, or None where another process holds it."""
        with _sentence("lock", path):
            fd = self.open(path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                self.close(fd)
                return None
            except BaseException:
                self.close(fd)
                raise
            return fd

    def _pwrite_all(self, fd: int, data: Bytes, offset: int) -> int:
        view = memoryview(data)
        if view.nbytes == 0:
            return 0
        view = view.cast("B")
        done = 0
        while done < len(view):
            count = self.pwrite(fd, view[done : done + _MAX_WRITE], offset + done)
            if count <= 0:
                raise OSError(errno.EIO, "the disk took no byte")
            done += count
        return done

    def _fsync_folder(self, path: Path) -> None:
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.fsync(fd)
        finally:
            self.close(fd)


@contextlib.contextmanager
def _sentence(verb: str, path: Path, rest: str = "") -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "")
        reason = error.strerror or str(error)
        failure = StoreError(f"cannot {verb} {path}{' ' + rest if rest else ''}: {reason}{'; ' + hint if hint else ''}")
        failure.errno = error.errno
        raise failure from error


DISK = FileSystem()
"""The real disk."""

write_atomic = DISK.write_atomic
