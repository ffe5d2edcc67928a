"""The stage `suite`: the cases of pytest-benchmark in benchmarks/gpu/suite, one after the other."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.measure import record
from benchmarks.gpu.run import ROOT


def records_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table a group of pytest-benchmark's JSON; contenders are named by the parameter `contender`."""
    groups: dict[str, dict[str, Any]] = {}
    for case in document["benchmarks"]:
        contender, stats = case["params"]["contender"], case["stats"]
        found = groups.setdefault(case["group"], record(case["group"], {}, {}, {}))
        found["timings"][contender] = {
            "median_ms": 1e3 * stats["median"],
            "best_ms": 1e3 * stats["min"],
            "rounds": stats["rounds"],
        }
        found["figures"] |= {f"{what}, {contender}": value for what, value in case["extra_info"].items()}
    return list(groups.values())


def suite() -> list[dict[str, Any]]:
    """Where a case fails, or all are skipped, so does the stage."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "suite.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "benchmarks/gpu/suite"]
        ran = subprocess.run([*command, f"--benchmark-json={told}"], cwd=ROOT)
        found = records_of(json.loads(told.read_text())) if ran.returncode == 0 and told.stat().st_size else []
    if not found:
        raise SystemExit(f"the cases of benchmarks/gpu/suite did not pass: exit status {ran.returncode}")
    return found
