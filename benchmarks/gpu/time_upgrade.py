"""The timing stages of the upgrade on tensors of the device: large batches, a small h, one row."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from benchmarks.gpu.ceiling import figures_of
from benchmarks.gpu.chains import MlFct, checked, inputs, spec_of
from benchmarks.gpu.measure import record, timed
from benchmarks.gpu.state import so_far
from fct_fast import Upgrader
from fct_fast.bench import folded_chain

LARGE = (128, 128, 2048, 128)
SMALL = (32, 32, 128, 32)


def _module(dims: tuple[int, int, int, int]) -> MlFct:
    """Random, with BatchNorm statistics of the data's scale, so that no activation dies or overflows."""
    torch.manual_seed(0)
    module = MlFct(*dims).cuda()
    with torch.no_grad():
        for _ in range(20):
            module(*inputs(4096, *dims[:2]))
    return module.eval()


def _contenders(dims: tuple[int, int, int, int], n: int) -> tuple[dict[str, Any], Any]:
    """Every contender on inputs of its own type, after it was seen to compute the same; and the spec."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    module = _module(dims)
    spec = spec_of(module)
    old, side = inputs(n, *dims[:2])
    half_old, half_side = old.half(), side.half()
    few = [x[:512].cpu().numpy() for x in (old, side)]
    true = torch.from_numpy(spec.apply_float64(*few)).cuda()
    half = folded_chain(spec, torch.float16, "cuda")
    compiled = torch.compile(half, dynamic=False)
    out = torch.empty(n, spec.new_dim, device="cuda")

    def ours(precision: str, *rows: torch.Tensor) -> Any:
        calibration = tuple(few) if precision == "int8" else None
        up = Upgrader(spec, device="cuda", precision=precision, calibration=calibration, scale_check="off")
        # int8's promise is for a fitted h; this one is random.
        bound = {"fp32": 2e-6, "fp16": 1.5e-3, "bf16": 1e-2, "int8": 1e-1}[precision] + (
            5e-4 if rows[0].dtype == torch.half else 0
        )
        checked(f"fct_fast {precision}", up(*[x[:512] for x in rows]), true, bound)
        # "flag": the mask stays on the device, so that no call waits for it.
        return lambda: up(*rows, out=out, nonfinite="flag")

    with torch.inference_mode():
        checked("ml-fct", module(old[:512], side[:512]), true, 1e-4)
        checked("torch folded", half(half_old[:512], half_side[:512]), true, 5e-3)

    def inference(run: Any, *rows: torch.Tensor) -> Any:
        def call() -> None:
            with torch.inference_mode():
                run(*rows)

        return call

    return {
        "fct_fast fp16": ours("fp16", half_old, half_side),
        "fct_fast bf16": ours("bf16", half_old, half_side),
        "fct_fast int8": ours("int8", half_old, half_side),
        "fct_fast fp16, float32 in": ours("fp16", old, side),
        "fct_fast fp32": ours("fp32", old, side),
        "torch folded fp16, eager": inference(half, half_old, half_side),
        "torch folded fp16, compiled": inference(compiled, half_old, half_side),
        "ml-fct as shipped, fp32": inference(module, old, side),
    }, spec


def _record(name: str, dims: tuple[int, int, int, int], n: int, rounds: int) -> dict[str, Any]:
    contenders, spec = _contenders(dims, n)
    timings = timed(contenders, rounds)
    ours = timings["fct_fast fp16"]["median_ms"]
    flops = n * spec.flops_per_row / (ours * 1e-3)
    figures: dict[str, Any] = {"rows/s": n / (ours * 1e-3), "TFLOP/s": flops / 1e12}
    figures |= {f"times {who}": t["median_ms"] / ours for who, t in timings.items() if not who.startswith("fct_fast")}
    matmul = figures_of(so_far()).get("matmul TFLOP/s")
    if matmul:
        figures["share of the fp16 matmul's rate"] = flops / 1e12 / matmul
    return record(name, {"dims": "{}+{}->{}->{}".format(*dims), "rows": n}, timings, figures)


def large() -> list[dict[str, Any]]:
    return [_record("upgrade", LARGE, n, 20) for n in (16384, 262144, 1048576)]


def small() -> list[dict[str, Any]]:
    # 2^20 rows of 64 halves are 134 MB, more than any L2 cache today.
    return [_record("small h", SMALL, n, 50) for n in (1 << 20, 1 << 22)]


def one() -> list[dict[str, Any]]:
    """One row: device time of calls that follow each other, and the Python call until the row is there."""
    found = []
    for dims in (LARGE, SMALL):
        spec = spec_of(_module(dims))
        old, side = inputs(1, *dims[:2], dtype=torch.half)
        up = Upgrader(spec, device="cuda", scale_check="off")
        out = torch.empty(1, spec.new_dim, device="cuda")

        def call(up: Any = up, old: Any = old, side: Any = side, out: Any = out) -> None:
            up(old, side, out=out, nonfinite="flag")

        timings = timed({"queued, one after the other": call}, rounds=50, repeat=100)
        calls = []
        for _ in range(2000):
            start = time.perf_counter()
            call()
            torch.cuda.synchronize()
            calls.append(1e6 * (time.perf_counter() - start))
        figures = {
            "us a call on the device, launches included": timings["queued, one after the other"]["median_ms"] * 1e3,
            "us of the Python call until the row is there": statistics.median(calls),
        }
        found.append(record("one row", {"dims": "{}+{}->{}->{}".format(*dims)}, timings, figures))
    return found
