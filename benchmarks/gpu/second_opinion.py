"""The stage `second-opinion`: layers by CUTLASS beside ours, on Hopper.

What both compute must agree, and CUTLASS's speed is what ours is held against.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.chains import checked, inputs
from benchmarks.gpu.cutlass_layer import CutlassChain, CutlassLayer
from benchmarks.gpu.measure import record, timed
from benchmarks.gpu.run import ROOT
from benchmarks.gpu.time_upgrade import LARGE
from fct_fast import Upgrader
from fct_fast.bench import random_transform

# Rows, in, out: whole tiles and their edges.
SHAPES = [(1, 8, 8), (127, 64, 256), (129, 72, 264), (1000, 512, 2048), (4097, 2048, 128)]
DEEP = (262_144, 2048, 2048)
# Both round every layer's output to 16 bits and sum in float32, so they differ by roundings alone.
BOUNDS = {torch.float16: 1.5e-3, torch.bfloat16: 1e-2}


def _built() -> Path:
    """The library, compiled; about a minute and 4 GB of memory."""
    folder = ROOT / "build/second_opinion"
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-DFCT_PYTHON=OFF", "-DFCT_CUDA=ON", "-DFCT_CUTLASS=ON"]
    subprocess.run([*configure, f"-DPython_EXECUTABLE={sys.executable}"], check=True)
    subprocess.run(["cmake", "--build", str(folder), "--target", "fct_second_opinion"], check=True)
    return folder / "csrc/cuda/second_opinion/libfct_second_opinion.so"


def _layer_of(rows: int, into: int, out: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, weight = inputs(rows, into, dtype=dtype)[0], inputs(out, into)[0] * (2 / into) ** 0.5
    return x, weight.to(dtype), torch.randn(out, device="cuda")


def _check_layers(layer: CutlassLayer) -> None:
    for dtype, bound in BOUNDS.items():
        for shape in SHAPES:
            x, weight, bias = _layer_of(*shape, dtype)
            for relu in (False, True):
                wide = torch.full((shape[0], shape[2] + 16), torch.nan, device="cuda", dtype=dtype)
                layer(x, weight, bias, wide[:, 8:-8], relu)
                want = x.double() @ weight.double().T + bias
                checked(f"CUTLASS {dtype} {shape}", wide[:, 8:-8], want.clamp_min(0) if relu else want, bound)
                if not bool(wide[:, :8].isnan().all() and wide[:, -8:].isnan().all()):
                    raise SystemExit(f"CUTLASS {dtype} {shape} wrote beside its columns")


def second_opinion() -> list[dict[str, Any]]:
    layer = CutlassLayer(_built())
    _check_layers(layer)
    spec = random_transform(*LARGE)
    found = []
    for rows in (16_384, 262_144):
        setting = {"dims": "{}+{}->{}->{}".format(*LARGE), "rows": rows}
        contenders: dict[str, Any] = {}
        figures: dict[str, Any] = {}
        for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
            old, side = inputs(rows, *LARGE[:2], dtype=dtype)
            chain = CutlassChain(layer, spec, rows, dtype)
            up = Upgrader(spec, device="cuda", precision=name, scale_check="off")
            out = torch.empty(rows, spec.new_dim, device="cuda")
            true = torch.from_numpy(spec.apply_float64(*(x[:512].float().cpu().numpy() for x in (old, side)))).cuda()
            checked(f"CUTLASS {name}", chain(old, side)[:512], true, BOUNDS[dtype])
            ours = up(old, side, out=out, nonfinite="flag")[0]
            checked(f"ours {name}, beside CUTLASS", ours, chain(old, side), 2 * BOUNDS[dtype])
            contenders[f"fct_fast {name}"] = lambda up=up, a=old, b=side, out=out: up(a, b, out=out, nonfinite="flag")
            contenders[f"CUTLASS {name}, layer by layer"] = lambda chain=chain, a=old, b=side: chain(a, b)
        timings = timed(contenders, 20)
        for name in ("fp16", "bf16"):
            ours_ms, theirs_ms = (timings[who]["median_ms"] for who in contenders if name in who)
            figures[f"share of CUTLASS's speed, {name}"] = theirs_ms / ours_ms
        found.append(record("upgrade beside CUTLASS", setting, timings, figures))
    x, weight, bias = _layer_of(*DEEP, torch.float16)
    y = torch.empty(DEEP[0], DEEP[2], device="cuda", dtype=torch.half)
    timings = timed(
        {"CUTLASS": lambda: layer(x, weight, bias, y, True), "torch matmul alone": lambda: x @ weight.T}, 20
    )
    flops = 2 * DEEP[0] * DEEP[1] * DEEP[2]
    rates = {f"TFLOP/s, {who}": flops / (t["median_ms"] * 1e-3) / 1e12 for who, t in timings.items()}
    return [*found, record("one layer", {"rows": DEEP[0], "in": DEEP[1], "out": DEEP[2]}, timings, rates)]
