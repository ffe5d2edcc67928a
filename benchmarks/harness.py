"""Records: what was run, on what, and the figures; as JSON and as Markdown."""

from __future__ import annotations

import json
import platform
import resource
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fct_fast.bench import Timing, take_turns

RESULTS = Path(__file__).parent / "results"


@dataclass
class Record:
    """One benchmark: what was run, the figures of each contender, and the ratios that README quotes."""

    name: str
    setting: Mapping[str, Any]
    timings: dict[str, Timing] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)


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


def seconds_to_read(array: np.ndarray, threads: int, passes: int = 20, rounds: int = 9) -> float:
    """Of all its bytes on so many threads, doing next to nothing with them: what no kernel over them can beat. A short
    array that fits a cache is read from there, as a kernel would that is called again and again."""
    parts = np.array_split(array.reshape(-1).view(np.uint32), threads)
    with ThreadPoolExecutor(threads) as pool:

        def read(part: np.ndarray) -> None:
            for _ in range(passes):
                np.max(part)

        seconds = take_turns({"read": lambda: list(pool.map(read, parts))}, rounds)["read"].median_s
    return seconds / passes


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
