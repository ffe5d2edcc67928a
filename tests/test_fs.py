"""Durable files: whole content or the old content, whatever call fails; no leftovers; every failure a sentence."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fct_fast.errors import StoreError
from fct_fast.fs import DISK, FileSystem, write_atomic

CALLS = ["open", "pwrite", "fsync", "close", "replace"]


class FaultyDisk(FileSystem):
    """Counts the calls that change something and fails the n-th one with `code`."""

    def __init__(self, fail_at: int = 0, code: int = errno.EIO, only: str = "") -> None:
        self.fail_at, self.code, self.only = fail_at, code, only
        self.log: list[str] = []

    def _count(self, name: str) -> None:
        if self.only and name != self.only:
            return
        self.log.append(name)
        if len(self.log) == self.fail_at:
            raise OSError(self.code, os.strerror(self.code))

    def open(self, path: Path, flags: int) -> int:
        self._count("open")
        return super().open(path, flags)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self._count("pwrite")
        return super().pwrite(fd, data, offset)

    def fsync(self, fd: int) -> None:
        self._count("fsync")
        super().fsync(fd)

    def close(self, fd: int) -> None:
        super().close(fd)
        self._count("close")

    def replace(self, source: Path, target: Path) -> None:
        self._count("replace")
        super().replace(source, target)


def test_chunks_of_all_kinds_become_the_content(tmp_path: Path) -> None:
    import numpy as np

    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_atomic(tmp_path / "a", b"head", bytearray(b"-"), memoryview(rows), b"", memoryview(rows[:0]))
    assert (tmp_path / "a").read_bytes() == b"head-" + rows.tobytes()
    write_atomic(str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == b""
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_order_is_write_flush_rename_flush_folder(tmp_path: Path) -> None:
    disk = FaultyDisk()
    disk.write_atomic(tmp_path / "a", b"x")
    assert disk.log == ["open", "pwrite", "fsync", "close", "replace", "open", "fsync", "close"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_every_failing_call_leaves_old_or_new_content_and_no_leftover(tmp_path: Path, code: int) -> None:
    path = tmp_path / "a"
    for n in range(1, 9):
        path.write_bytes(b"old")
        with pytest.raises(StoreError, match=r"cannot write .*a: ") as caught:
            FaultyDisk(n, code).write_atomic(path, b"new")
        assert caught.value.errno == code
        assert path.read_bytes() == (b"old" if n <= 5 else b"new")  # call 5 is the rename
        assert [p.name for p in tmp_path.iterdir()] == ["a"]
    FaultyDisk(9).write_atomic(path, b"new")


def test_fsync_is_never_tried_again(tmp_path: Path) -> None:
    disk = FaultyDisk(1, only="fsync")
    with pytest.raises(StoreError):
        disk.write_atomic(tmp_path / "a", b"x")
    assert disk.log == ["fsync"]
    assert not (tmp_path / "a").exists()


def test_short_writes_are_continued(tmp_path: Path) -> None:
    class Stingy(FileSystem):
        def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
            return super().pwrite(fd, data[:3], offset)

        def pread(self, fd: int, buffer: memoryview, offset: int) -> int:
            return super().pread(fd, buffer[:3], offset)

    disk = Stingy()
    disk.write_atomic(tmp_path / "a", b"0123456789", b"abc")
    assert (tmp_path / "a").read_bytes() == b"0123456789abc"
    fd = disk.open_file(tmp_path / "a")
    buffer = bytearray(7)
    disk.read_at(fd, tmp_path / "a", memoryview(buffer), 4)
    disk.close_file(fd, tmp_path / "a")
    assert buffer == b"456789a"


def test_a_write_that_makes_no_progress_is_an_error_not_a_loop(tmp_path: Path) -> None:
    class Stuck(FileSystem):
        def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
            return 0

    with pytest.raises(StoreError, match="took no byte"):
        Stuck().write_atomic(tmp_path / "a", b"x")


def test_update_in_place_and_read_past_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    fd = DISK.open_file(path, write=True)
    DISK.write_at(fd, path, b"world", 6)
    DISK.write_at(fd, path, b"hello ", 0)
    DISK.flush(fd, path)
    with pytest.raises(StoreError, match="ends at byte 11, but 12 bytes are needed"):
        DISK.read_at(fd, path, memoryview(bytearray(6)), 6)
    DISK.close_file(fd, path)
    assert path.read_bytes() == b"hello world"


def test_paths_that_cannot_be_written_say_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    cases: list[tuple[Any, str]] = [
        (lambda: write_atomic(tmp_path / "missing" / "a", b"x"), "No such file or directory; check the path"),
        (lambda: write_atomic(tmp_path / "file" / "a", b"x"), "a part of it is a file"),
        (lambda: write_atomic(tmp_path / "folder", b"x"), "it is a folder"),
        (lambda: DISK.make_folder(tmp_path / "file" / "a"), "cannot create the folder"),
        (lambda: DISK.make_folder(tmp_path / "file"), "cannot create the folder"),
        (lambda: DISK.open_file(tmp_path / "missing"), "cannot open .*missing: No such file"),
        (lambda: DISK.publish(tmp_path / "missing", tmp_path / "b"), "cannot rename .*missing to .*b"),
    ]
    for act, sentence in cases:
        with pytest.raises(StoreError, match=sentence):
            act()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_make_folder_creates_parents_and_accepts_what_is_there(tmp_path: Path) -> None:
    DISK.make_folder(tmp_path / "a" / "b")
    DISK.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    DISK.remove(tmp_path / "a" / "nothing")


def test_disk_full_for_real(tmp_path: Path) -> None:
    """A file size limit makes the kernel itself refuse bytes half-way, as a full disk does."""
    code = f"""
import resource, signal
from pathlib import Path
from fct_fast.errors import StoreError
from fct_fast.fs import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
path = Path({str(tmp_path / "a")!r})
write_atomic(path, b"old")
try:
    write_atomic(path, bytes(1 << 20))
except StoreError as error:
    assert "File too large; raise the file size limit" in str(error), error
else:
    raise AssertionError("no error")
assert path.read_bytes() == b"old"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_lock_excludes_other_processes_and_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = f"from pathlib import Path; from fct_fast.fs import DISK; print(DISK.lock(Path({str(path)!r})) is None)"
    held = DISK.lock(path)
    assert held is not None
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60) == "True\n"
    assert DISK.lock(path, shared=True) is None
    DISK.close_file(held, path)
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60) == "False\n"
    again = DISK.lock(path)
    assert again is not None
    DISK.close_file(again, path)
