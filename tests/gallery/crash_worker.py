"""Runs backfills in forked children that the test kills: `python crash_worker.py FOLDER`, then one JSON line a run.

Request: {"sink": name, "kill_after": seconds or null}. Reply: {"exit": status}. The parent starts no threads, so that
forking is safe, and has everything imported, so that a child starts within milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from fct_fast.gallery import backfill
from fct_fast.upgrader import Upgrader

SHARD_ROWS = 40


def run(folder: Path, sink: str) -> None:
    up = Upgrader(folder / "h.safetensors", threads=1)
    source = {"old": folder / "old.npy", "side": folder / "side.npy"}
    backfill(source, folder / "out" / sink, up, shard_rows=SHARD_ROWS, nonfinite="flag")


def main() -> None:
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                run(folder, request["sink"])
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
