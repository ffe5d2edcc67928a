"""Timing on a GPU: CUDA events, contenders in turn, medians; and what it was measured on."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["machine", "record", "timed", "timing_of"]


def timing_of(milliseconds: Sequence[float]) -> dict[str, float | int]:
    """Median and best of a contender's rounds."""
    return {"median_ms": statistics.median(milliseconds), "best_ms": min(milliseconds), "rounds": len(milliseconds)}


def timed(
    contenders: Mapping[str, Callable[[], object]], rounds: int = 20, warmups: int = 3, repeat: int = 1
) -> dict[str, dict[str, float | int]]:
    """Device milliseconds of a call of each contender, between CUDA events on the current stream.

    Contenders take turns, so that a change of the clock hits all alike; a round calls a contender `repeat` times and
    counts one. Data of the contenders must be larger than the L2 cache.
    """
    import torch

    for run in contenders.values():
        for _ in range(warmups):
            run()
    torch.cuda.synchronize()
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(repeat):
                run()
            stop.record()
            stop.synchronize()
            found[name].append(start.elapsed_time(stop) / repeat)
    return {name: timing_of(values) for name, values in found.items()}


def record(
    name: str,
    setting: Mapping[str, Any],
    timings: Mapping[str, Mapping[str, float | int]],
    figures: Mapping[str, Any],
) -> dict[str, Any]:
    """One table of a stage."""
    return {"name": name, "setting": dict(setting), "timings": dict(timings), "figures": dict(figures)}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    told: dict[str, Any] = {"gpu": None, "driver": None, "torch": None, "cuda": None}
    try:
        import torch
    except ImportError:
        return told
    told |= {"torch": torch.__version__, "cuda": torch.version.cuda}
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        told |= {
            "gpu": facts.name,
            "multiprocessors": facts.multi_processor_count,
            "memory_bytes": facts.total_memory,
            "l2_bytes": getattr(facts, "L2_cache_size", None),
        }
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
        )
        told["driver"] = asked.stdout.splitlines()[0].strip() if asked.stdout else None
    except OSError:
        pass
    return told
