"""Runs a stage in a process of its own, so that a crash, a hang or a lost CUDA context ends that stage alone.

`python -m benchmarks.gpu.run STAGE FILE` is that process: it writes the stage's figures to FILE as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.stages import STAGES
from benchmarks.gpu.state import FOLDER

__all__ = ["ROOT", "run_stage"]

ROOT = Path(__file__).resolve().parents[2]
LOG_CHARACTERS = 6000  # of a stage's output that are kept


def run_stage(
    name: str, results: Path, command: list[str] | None = None, limit_s: float | None = None
) -> dict[str, Any]:
    """{"outcome", "seconds", "machine", "log", "figures"} of one stage; `command` and `limit_s` in place of its own.

    results: the folder of the document so far, for a stage that reads another's figures."""
    limit_s = STAGES[name].limit_s if limit_s is None else limit_s
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "figures.json"
        command = command or [sys.executable, "-m", "benchmarks.gpu.run", name]
        environment = os.environ | {"FCT_FAST_CUDA_UNVERIFIED": "1", "PYTHONUNBUFFERED": "1", FOLDER: str(results)}
        start = time.monotonic()
        # A session of its own: a stage that hangs is ended with all that it has started.
        process = subprocess.Popen(
            [*command, str(found)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            log, _ = process.communicate(timeout=limit_s)
            outcome = "passed" if process.returncode == 0 and found.is_file() else "failed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            log, _ = process.communicate()
            outcome = "timeout"
        told = json.loads(found.read_text()) if outcome == "passed" else {"machine": None, "figures": None}
        return {"outcome": outcome, "seconds": time.monotonic() - start, "log": log[-LOG_CHARACTERS:], **told}


def _inside(name: str, target: Path) -> None:
    module, _, function = STAGES[name].run.partition(":")
    figures = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)()
    from benchmarks.gpu.measure import machine

    target.write_text(json.dumps({"machine": machine(), "figures": figures}))


if __name__ == "__main__":
    _inside(sys.argv[1], Path(sys.argv[2]))
