"""Runs backfills in forked children that come to a sudden end: `python kill_worker.py FOLDER`, then one JSON line a run.

Request: {"case": name, "kill_after": seconds or null, "exit_at": number or null}. Reply: {"exit": wait status}. A child
is killed from outside after so many seconds, or leaves at its n-th call that changes the disk. The parent starts no
threads that stay, so that forking is safe, and has everything imported, so that a child starts within milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from galleries import Bench, chosen
from gallery_support import FaultyDisk

from fct_fast import bundle
from fct_fast.fs import DISK

EXIT = 7


class ExitingDisk(FaultyDisk):
    """The process is gone at the n-th call; of a write, half has been done."""

    def _count(self, name: str) -> None:
        self.calls += 1
        if self.calls == self.fail_at and name != "pwrite":
            os._exit(EXIT)

    def open(self, path: Path, flags: int) -> int:
        if flags & os.O_CREAT:
            self._count("open")
        return os.open(path, flags | os.O_CLOEXEC, 0o666)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self._count("pwrite")
        if self.calls == self.fail_at:
            os.pwrite(fd, data[: len(data) // 2], offset)
            os._exit(EXIT)
        return os.pwrite(fd, data, offset)


def run(bench: Bench, exit_at: int | None) -> None:
    disk = DISK if exit_at is None else ExitingDisk(exit_at)
    bundle.write_atomic = disk.write_atomic  # type: ignore[attr-defined]  # it does not take a disk
    bench.run(disk)


def main() -> None:
    benches = {case.name: Bench(case, Path(sys.argv[1]) / case.name) for case in chosen()}
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                run(benches[request["case"]], request["exit_at"])
                status = 0
            finally:
                os._exit(status)
        if request["kill_after"] is not None:
            time.sleep(request["kill_after"])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"exit": status}), flush=True)


if __name__ == "__main__":
    main()
