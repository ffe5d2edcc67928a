"""The correctness stages: pytest over tests/cuda/gpu, alone on the machine."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from benchmarks.gpu.measure import record
from benchmarks.gpu.run import ROOT

_COUNT = re.compile(r"(\d+) (passed|failed|skipped|error)")


def counts_of(output: str) -> dict[str, int]:
    """{"passed": n, ...} of pytest's last line."""
    lines = [line for line in output.splitlines() if _COUNT.search(line)]
    return {word: int(number) for number, word in _COUNT.findall(lines[-1])} if lines else {}


def upgrade() -> list[dict[str, Any]]:
    return _pytest("test_gpu_upgrade.py")


def search() -> list[dict[str, Any]]:
    return _pytest("test_gpu_search.py")


def rank() -> list[dict[str, Any]]:
    return _pytest("test_gpu_rank.py")


def backfill() -> list[dict[str, Any]]:
    return _pytest("test_gpu_backfill.py")


def _pytest(file: str) -> list[dict[str, Any]]:
    """A skipped test is no passed one: where nothing passed, the stage fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/cuda/gpu/{file}"]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(ran.stdout, flush=True)
    counts = counts_of(ran.stdout)
    if ran.returncode != 0 or not counts.get("passed"):
        raise SystemExit(f"{file} did not pass: {counts}")
    return [record(file, {}, {}, counts)]
