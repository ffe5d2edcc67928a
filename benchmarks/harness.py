"""Interleaved timing: contenders take turns, so that a slow second of the machine hits all of them alike."""

from __future__ import annotations

import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
REST_SECONDS = 0.02
SHORT_SECONDS = 0.1


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender: median and best over the rounds."""

    median_s: float
    best_s: float
    rounds: int


@dataclass
class Record:
    """One benchmark: what was run, the figures of each contender, and the ratios that README quotes."""

    name: str
    setting: Mapping[str, Any]
    timings: dict[str, Timing] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)


def interleave(contenders: Mapping[str, Callable[[], object]], rounds: int = 7) -> dict[str, Timing]:
    """Each contender once to warm up, then `rounds` rounds of all in turn.

    A turn begins with a rest: the threads of OpenMP spin for a while after a call of torch or faiss, and would take a
    core from whoever comes next. A short call is made once untimed after it, so that the timed one finds warm caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    short = {name: _timed(run) < SHORT_SECONDS for name, run in contenders.items()}
    for _ in range(rounds):
        for name, run in contenders.items():
            time.sleep(REST_SECONDS)
            if short[name]:
                run()
            seconds[name].append(_timed(run))
    return {name: Timing(statistics.median(s), min(s), rounds) for name, s in seconds.items()}


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    from fct_fast.kernels import capabilities

    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    family = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "cpu family" in line
    ]
    return capabilities() | {"cpu": model, "cpu_family": family[0] if family else "", "torch": torch.__version__}


def peak_memory_mb() -> float:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def extra_memory_mb(call: Callable[[], object]) -> float:
    """By how much a call raises the resident memory at its highest, over what there was before it (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest is counted anew from here
    before = _status_mb("VmRSS")
    call()
    return _status_mb("VmHWM") - before


def _status_mb(field_name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(field_name + ":"))) / 1024


def write(records: list[Record], stem: str) -> None:
    """results/<stem>.json and results/<stem>.md."""
    document = {"machine": machine(), "records": [asdict(record) for record in records]}
    (RESULTS / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n")
    lines = [f"# {stem}", "", ", ".join(f"{key}: {value}" for key, value in document["machine"].items()), ""]
    for record in records:
        lines += [f"## {record.name}", "", ", ".join(f"{k} = {v}" for k, v in record.setting.items()), ""]
        lines += ["| contender | median | best |", "|---|---|---|"]
        lines += [
            f"| {name} | {t.median_s * 1e3:.3g} ms | {t.best_s * 1e3:.3g} ms |" for name, t in record.timings.items()
        ]
        lines += ["", *(f"- {name}: {value:.4g}" for name, value in record.figures.items()), ""]
    (RESULTS / f"{stem}.md").write_text("\n".join(lines))
