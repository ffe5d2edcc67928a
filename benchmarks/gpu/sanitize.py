"""The compute-sanitizer stages, on small shapes: every kernel at odd sizes, under each tool."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import Any

from benchmarks.gpu.measure import record
from benchmarks.gpu.run import ROOT

_SUMMARY = re.compile(r"(ERROR|RACECHECK) SUMMARY: (\d+) (?:errors?|hazards? displayed)")


def reports_of(output: str) -> int | None:
    """How many faults the tool reports; None where its summary is missing, since it did not get to its end."""
    found = _SUMMARY.findall(output)
    return int(found[-1][1]) if found else None


def memcheck() -> list[dict[str, Any]]:
    return _checked("memcheck", "--leak-check", "no")


def racecheck() -> list[dict[str, Any]]:
    return _checked("racecheck")


def synccheck() -> list[dict[str, Any]]:
    return _checked("synccheck")


def _checked(tool: str, *options: str) -> list[dict[str, Any]]:
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    command = [sanitizer, "--tool", tool, *options, "--error-exitcode", "9"]
    command += [sys.executable, "-m", "benchmarks.gpu.small_shapes"]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(ran.stdout[-20000:], flush=True)
    reports = reports_of(ran.stdout)
    if ran.returncode != 0 or reports != 0 or "small shapes done" not in ran.stdout:
        raise SystemExit(f"{tool}: exit status {ran.returncode}, {reports} reports")
    return [record(tool, {}, {}, {"reports": reports})]
