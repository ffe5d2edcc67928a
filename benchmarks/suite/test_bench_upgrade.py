"""The upgrade, its precisions and its peers: `pytest benchmarks/suite`, with all options of pytest-benchmark.

For comparing two versions of the kernels (--benchmark-autosave, --benchmark-compare). Contenders of a group run one
after the other here; the records in benchmarks/results/ come from `make bench`, where they take turns.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.bench_upgrade import CALIBRATION_ROWS, Shape, random_rows
from benchmarks.harness import extra_memory_mb
from benchmarks.peers import compiled_chain, onnx_chain
from fct_fast import Upgrader
from fct_fast.bench import folded_chain, random_transform, usable_precisions
from fct_fast.kernels import native

DEFAULT: Shape = (128, 128, 2048, 128)
SHAPES = {"default": DEFAULT, "small": (64, 64, 512, 64), "tiny": (32, 32, 128, 32), "no side": (512, 0, 1024, 512)}
PEAK_SECONDS = 0.3


@pytest.mark.parametrize("rows", [1, 16, 64, 1024, 16384])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", usable_precisions())
def test_fct_fast(benchmark, shape, precision, rows):
    spec = random_transform(*SHAPES[shape])
    old, side, *calibration = (
        None if x is None else x.numpy()
        for x in (*random_rows(SHAPES[shape], rows), *random_rows(SHAPES[shape], CALIBRATION_ROWS))
    )
    up = Upgrader(spec, precision=precision, calibration=tuple(calibration) if precision == "int8" else None)
    up(old, side)
    benchmark.group = f"upgrade {shape}, {rows} rows"
    benchmark.extra_info["extra memory, MB"] = extra_memory_mb(lambda: up(old, side))
    benchmark(up, old, side)
    rate = rows * spec.flops_per_row / benchmark.stats.stats.median
    peak = 2 * native().peak_rate(up.level, precision, up.threads, PEAK_SECONDS)
    benchmark.extra_info |= {
        "rows/s": rows / benchmark.stats.stats.median,
        "GFLOP/s": rate / 1e9,
        "share of the register peak": rate / peak,
    }


@pytest.mark.parametrize("rows", [1, 16, 64, 1024, 16384])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("peer", ["torch fp32", "torch bf16", "torch.compile fp32", "ONNX Runtime fp32"])
def test_peer(benchmark, shape, peer, rows):
    spec = random_transform(*SHAPES[shape])
    old, side = random_rows(SHAPES[shape], rows)
    if peer == "torch bf16":
        if "bf16" not in usable_precisions():
            pytest.skip("this processor has no bf16 instructions")
        old, side = old.bfloat16(), None if side is None else side.bfloat16()
        chain = folded_chain(spec, torch.bfloat16)
    elif peer == "torch.compile fp32":
        chain = compiled_chain(spec)
    elif peer == "ONNX Runtime fp32":
        chain = onnx_chain(spec, torch.get_num_threads())
        if chain is None:
            pytest.skip("onnx and onnxruntime are not installed: pip install 'fct-fast[bench]'")
    else:
        chain = folded_chain(spec)
    chain(old, side)
    benchmark.group = f"upgrade {shape}, {rows} rows"
    benchmark(chain, old, side)
    benchmark.extra_info["rows/s"] = rows / benchmark.stats.stats.median
