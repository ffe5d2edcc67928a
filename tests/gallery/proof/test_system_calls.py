"""The same from outside, by strace: the process is killed at its n-th system call of a kind, or the call fails. This
reaches the calls that SQLite makes for the ledger, which the file layer does not see. Long, and only where strace is."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from galleries import Bench, chosen

from fct_fast.bundle import write_bundle

pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(shutil.which("strace") is None, reason="these tests need strace"),
]

CALLS = ["pwrite64", "fdatasync", "ftruncate", "fsync", "rename", "unlink", "mkdir"]
CODE = """
import json, sys
from fct_fast import Upgrader, backfill
from fct_fast.errors import StoreError
wanted = json.loads(sys.argv[1])
try:
    backfill(up=Upgrader(wanted.pop("h"), threads=1), nonfinite="flag", **wanted)
except StoreError as error:
    print(error)
    sys.exit(7)
"""


def traced(bench: Bench, call: str, injection: str = "") -> tuple[int, int]:
    """Run the job in a process of its own under strace. How that ended, and how often one thread of it made the call."""
    h, record = bench.out.with_name("h.safetensors"), bench.out.with_name("trace")
    if not h.exists():
        write_bundle(h, spec=bench.up.spec, spaces=bench.up.spaces)
    wanted = {"h": str(h), "source": dict(bench.source), "sink": str(bench.sink), "shard_rows": bench.shard_rows}
    strace = ["strace", "-f", "-qq", "-o", str(record), "-e", f"trace={call}"]
    strace += ["-e", f"inject={call}:{injection}"] if injection else []
    command = [*strace, sys.executable, "-c", CODE, json.dumps(wanted)]
    root = Path(__file__).parents[3]
    status = subprocess.run(command, cwd=root, capture_output=True, timeout=60, check=False).returncode
    threads = Counter(line.split()[0] for line in record.read_text().splitlines() if f" {call}(" in line)
    return status, max(threads.values(), default=0)


@pytest.mark.parametrize("call", CALLS)
def test_killed_at_every_system_call(call: str, tmp_path: Path) -> None:
    bench = Bench(chosen()[0], tmp_path)
    _, calls = traced(bench, call)
    assert calls > 0
    for n in range(1, calls + 1):
        bench.clear()
        status, _ = traced(bench, call, f"signal=KILL:when={n}")
        assert status in (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert bench.wrong_before() == "", f"killed at {call} {n}"
        assert bench.wrong_after() == "", f"killed at {call} {n}"


@pytest.mark.parametrize("code", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("call", CALLS)
def test_every_system_call_fails(call: str, code: str, tmp_path: Path) -> None:
    """(SQLite does without a flush of the folder that fails.)"""
    bench = Bench(chosen()[0], tmp_path)
    _, calls = traced(bench, call)
    refused = 0
    for n in range(1, calls + 1):
        bench.clear()
        status, _ = traced(bench, call, f"error={code}:when={n}")
        assert status in (0, 7), f"{call} {n} with {code}"
        refused += status == 7
        assert bench.wrong_before() == "", f"{call} {n} with {code}"
        assert bench.wrong_after() == "", f"{call} {n} with {code}"
    assert refused
