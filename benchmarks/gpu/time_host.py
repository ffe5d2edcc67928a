"""The stage `time-host`: host arrays in, host arrays out, beside what the link and the kernel alone would take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.chains import inputs, spec_of
from benchmarks.gpu.measure import record, timed, timing_of
from benchmarks.gpu.time_upgrade import LARGE, SMALL, _module
from fct_fast import Upgrader

ROWS = {LARGE: 1 << 20, SMALL: 1 << 22}


def _wall(run: Callable[[], object], rounds: int = 7) -> dict[str, float | int]:
    found = []
    run()
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        found.append(1e3 * (time.perf_counter() - start))
    return timing_of(found)


def _record(dims: tuple[int, int, int, int], n: int) -> dict[str, Any]:
    spec = spec_of(_module(dims))
    up = Upgrader(spec, device="cuda", scale_check="off")
    there = inputs(n, *dims[:2], dtype=torch.half)
    half = [x.cpu().pin_memory() for x in there]
    wide = [x.float().numpy() for x in half]
    out_there = torch.empty(n, spec.new_dim, device="cuda", dtype=torch.half)
    out = torch.empty(n, spec.new_dim, dtype=torch.half).pin_memory()
    ups, downs = torch.cuda.Stream(), torch.cuda.Stream()

    def link() -> None:
        now = torch.cuda.current_stream()
        for stream in (ups, downs):
            stream.wait_stream(now)
        with torch.cuda.stream(ups):
            for to, source in zip(there, half, strict=True):
                to.copy_(source, non_blocking=True)
        with torch.cuda.stream(downs):
            out.copy_(out_there, non_blocking=True)
        for stream in (ups, downs):
            now.wait_stream(stream)

    alone = timed(
        {"kernel alone": lambda: up(*there, out=out_there, nonfinite="flag"), "link alone, both ways": link}, 10
    )
    timings = alone | {
        "pinned fp16 in and out": _wall(lambda: up(*half, out=out, nonfinite="flag")),
        "pageable float32 in and out": _wall(lambda: up(*wide, nonfinite="flag")),
    }
    slower = max(alone[name]["median_ms"] for name in alone)
    figures = {
        f"share of the slower of link and kernel, {name}": slower / timings[name]["median_ms"]
        for name in timings
        if name not in alone
    }
    setting = {"dims": "{}+{}->{}->{}".format(*dims), "rows": n, "threads": up.threads}
    return record("host to host", setting, timings, figures)


def host() -> list[dict[str, Any]]:
    """The bar: the slower of link (both ways at once) and kernel, measured here."""
    return [_record(dims, n) for dims, n in ROWS.items()]
