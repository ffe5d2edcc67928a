"""The upgrade on a GPU: `python -m pytest benchmarks/gpu/suite`, with all options of pytest-benchmark.

For comparing two versions of the kernels; the stages `time-*` of `python -m benchmarks.gpu` let contenders take turns.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.chains import inputs
from benchmarks.gpu.event_timer import EventTimer
from fct_fast import Upgrader
from fct_fast.bench import folded_chain, random_transform, usable_precisions

SHAPES = {"default": (128, 128, 2048, 128), "small h": (32, 32, 128, 32)}
# Larger than any L2 cache, but for the first, which is what a service sends.
CASES = [("default", 16_384), ("default", 262_144), ("default", 1 << 20), ("small h", 1 << 20), ("small h", 1 << 22)]
on_device = pytest.mark.benchmark(timer=EventTimer())


def upgrader_of(shape: str, precision: str) -> Upgrader:
    calibration = [x.cpu().numpy() for x in inputs(1024, *SHAPES[shape][:2])] if precision == "int8" else None
    spec = random_transform(*SHAPES[shape])
    return Upgrader(spec, device="cuda", precision=precision, calibration=calibration, scale_check="off")


@on_device
@pytest.mark.parametrize("contender", [*usable_precisions("cuda"), "torch fp16"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}, {case[1]} rows")
def test_upgrade(benchmark, case, contender):
    shape, rows = case
    old, side = inputs(rows, *SHAPES[shape][:2], dtype=torch.half)
    spec = random_transform(*SHAPES[shape])
    benchmark.group = f"upgrade {shape}, {rows} rows of fp16"
    if contender == "torch fp16":
        with torch.inference_mode():
            benchmark.pedantic(folded_chain(spec, torch.half, "cuda"), (old, side), rounds=20, warmup_rounds=3)
    else:
        up = upgrader_of(shape, contender)
        # "flag": the mask stays on the device, so that no call waits for it.
        options = {"out": torch.empty(rows, spec.new_dim, device="cuda"), "nonfinite": "flag"}
        benchmark.pedantic(up, (old, side), options, rounds=20, warmup_rounds=3)
    median = benchmark.stats.stats.median
    benchmark.extra_info |= {"rows/s": rows / median, "TFLOP/s": rows * spec.flops_per_row / median / 1e12}


@on_device
@pytest.mark.parametrize("contender", usable_precisions("cuda"))
@pytest.mark.parametrize("shape", SHAPES)
def test_one_row_on_the_device(benchmark, shape, contender):
    """Calls that follow each other; launches are part of the time."""
    up = upgrader_of(shape, contender)
    row = inputs(1, *SHAPES[shape][:2], dtype=torch.half)
    options = {"out": torch.empty(1, up.new_dim, device="cuda"), "nonfinite": "flag"}
    benchmark.group = f"one row on the device, {shape}"
    benchmark.pedantic(up, row, options, rounds=50, iterations=100, warmup_rounds=3)


@pytest.mark.parametrize("contender", usable_precisions("cuda"))
@pytest.mark.parametrize("shape", SHAPES)
def test_one_row_until_it_is_there(benchmark, shape, contender):
    up = upgrader_of(shape, contender)
    row = inputs(1, *SHAPES[shape][:2], dtype=torch.half)
    out = torch.empty(1, up.new_dim, device="cuda")

    def call():
        up(*row, out=out, nonfinite="flag")
        torch.cuda.synchronize()

    benchmark.group = f"one row until it is there, {shape}"
    benchmark.pedantic(call, rounds=2000, warmup_rounds=50)


@pytest.mark.parametrize("contender", ["pinned fp16 in and out", "pageable float32 in and out"])
@pytest.mark.parametrize(("shape", "rows"), [("default", 1 << 20), ("small h", 1 << 22)])
def test_host_to_host(benchmark, shape, rows, contender):
    up = upgrader_of(shape, "fp16")
    host = [x.cpu() for x in inputs(rows, *SHAPES[shape][:2], dtype=torch.half)]
    benchmark.group = f"host to host {shape}, {rows} rows"
    if contender.startswith("pinned"):
        out = torch.empty(rows, up.new_dim, dtype=torch.half).pin_memory()
        arrays, options = [x.pin_memory() for x in host], {"out": out, "nonfinite": "flag"}
    else:
        arrays, options = [x.float().numpy() for x in host], {"nonfinite": "flag"}
    benchmark.pedantic(up, arrays, options, rounds=7, warmup_rounds=1)
    benchmark.extra_info["rows/s"] = rows / benchmark.stats.stats.median
