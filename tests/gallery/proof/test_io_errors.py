"""Whichever call of the disk fails, and however: a typed error with a sentence, in good time, with the commits kept and
nothing wrong at the final place; resuming gives the bytes of an undisturbed run."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from bad_disk import KINDS, BadDisk, in_use
from galleries import EACH, Bench
from gallery_support import Stopped, stop_after
from store_cases import Case

from fct_fast.errors import StoreError
from fct_fast.gallery.stores.protocol import spread

CODES = (errno.EIO, errno.ENOSPC, errno.EINTR, errno.EACCES)
SECONDS = 5  # a job that takes longer hangs
PAGE = 4096
SHORT = 10  # calls of each kind in the short form, evenly spaced


@contextlib.contextmanager
def in_good_time() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the job hangs: it took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def counted(bench: Bench) -> BadDisk:
    with in_use(BadDisk()) as disk:
        bench.run(disk)
    bench.clear()
    return disk


def fails_and_resumes(bench: Bench, disk: BadDisk) -> None:
    told = f"{disk.kind} {disk.fail_at} with {errno.errorcode[disk.code]}{' for good' if disk.for_good else ''}"
    try:
        with in_use(disk), in_good_time():
            bench.run(disk)
    except StoreError as error:
        sentence = str(error)
    else:
        sentence = "no error"
    assert re.match(r"cannot \w+ .*: [A-Z].*$", sentence), told
    assert disk.kind != "fsync" or disk.for_good or "fsync" not in disk.log[1:], f"{told}: fsync was tried again"
    assert bench.wrong_before() == "", told
    assert bench.wrong_after() == "", told
    bench.clear()


@EACH
@pytest.mark.parametrize("kind", KINDS)
def test_calls_fail_in_some_way(case: Case, kind: str, tmp_path: Path) -> None:
    """The codes, and once or for good, in turn."""
    bench = Bench(case, tmp_path)
    calls = counted(bench).calls[kind]
    for turn, n in enumerate(spread(calls, SHORT) + 1):
        fails_and_resumes(bench, BadDisk(kind, n, CODES[turn % 4], for_good=turn // 4 % 2 == 1))


@pytest.mark.stress
@EACH
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_call_fails_in_every_way(case: Case, kind: str, for_good: bool, tmp_path: Path) -> None:
    """(Of the very many reads, each fails in one way.)"""
    bench = Bench(case, tmp_path)
    calls = counted(bench).calls[kind]
    print(f"{calls} calls")
    for n in range(1, calls + 1):
        for code in CODES if kind != "pread" else [CODES[n % 4]]:
            fails_and_resumes(bench, BadDisk(kind, n, code, for_good=for_good))


@EACH
@pytest.mark.parametrize("kind", ["pwrite", "pread"])
def test_calls_that_do_less_than_was_asked_are_continued(case: Case, kind: str, tmp_path: Path) -> None:
    """As the kernel may do at a signal, or at the edge of a quota; one of them, and all of them."""
    bench = Bench(case, tmp_path)
    for n in [0, *spread(counted(bench).calls[kind], 6)]:
        with in_use(BadDisk(kind, n + 1, 0, for_good=n == 0)) as disk, in_good_time():
            bench.run(disk)
        assert bench.wrong_after() == ""
        bench.clear()


@EACH
def test_a_file_that_shrinks_while_it_is_read_is_an_error(case: Case, tmp_path: Path) -> None:
    class Shrinking(BadDisk):
        def pread(self, fd: int, buffer: memoryview, offset: int) -> int:
            return 0 if self._fails("pread") else os.preadv(fd, [buffer], offset)

    bench = Bench(case, tmp_path)
    for n in spread(counted(bench).calls["pread"], SHORT) + 1:
        with in_use(Shrinking("pread", n, 0)) as disk, pytest.raises(StoreError, match="ends at byte .* are needed"):
            bench.run(disk)
        assert bench.wrong_before() == ""
        assert bench.wrong_after() == ""
        bench.clear()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB of its own. Skips where mounting one is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a disk that is full needs the right to mount: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@EACH
def test_a_disk_that_is_full(case: Case, small_disk: Path) -> None:
    """The kernel itself runs out of blocks, wherever it is: in a shard, in the ledger, in its journal."""
    bench, filler = Bench(case, small_disk), small_disk / "filler"
    refused = []
    for pages in itertools.count():
        with pytest.raises(Stopped):
            bench.run(progress=stop_after(1))
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(PAGE)):
                pass
        os.truncate(filler, filler.stat().st_size - pages * PAGE)
        try:
            with in_good_time():
                bench.run()
        except StoreError as error:
            refused.append(str(error))
        else:
            break
        finally:
            filler.unlink()
        assert bench.wrong_before() == ""
        assert bench.wrong_after() == ""
        bench.clear()
    assert bench.wrong_after() == ""
    assert any("SQLITE_FULL" in told for told in refused)
    for told in refused:
        assert re.match(r"cannot .*(No space left on device; free some space|SQLITE_FULL.*; see to the disk)", told)
