"""Upgrade beside torch's own chain on the same h, BatchNorm folded: F.linear, relu, cat, normalize."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Record, interleave
from fct_fast import ForwardTransform, TransformSpec, Upgrader
from fct_fast.kernels import native, resolve_level

# A millisecond each: many rounds, so that one disturbed call does not set the median.
SMALL_BATCH_ROUNDS = 101


def folded_chain(spec: TransformSpec, dtype: torch.dtype = torch.float32):
    """The fastest plain torch form of this spec: two branches, a trunk, BatchNorm folded."""
    layers = [
        (torch.from_numpy(la.weight).to(dtype), torch.from_numpy(la.bias).to(dtype), la.relu)
        for _, la in spec.named_layers()
    ]
    counts = list(itertools.accumulate((len(branch.layers) for branch in spec.branches), initial=0))

    def run_layers(x: Tensor, first: int, last: int) -> Tensor:
        for weight, bias, relu in layers[first:last]:
            x = F.linear(x, weight, bias)
            if relu:
                x = torch.relu_(x)
        return x

    def chain(old: Tensor, side: Tensor | None) -> Tensor:
        with torch.inference_mode():
            inputs = {"old": old, "side": side}
            parts = [
                run_layers(inputs[branch.input], counts[i], counts[i + 1]) for i, branch in enumerate(spec.branches)
            ]
            return F.normalize(run_layers(torch.cat(parts, 1), counts[-1], len(layers)))

    return chain


def upgrade_record(
    old_dim: int, side_dim: int, inner_dim: int, new_dim: int, n: int, level: str | None = None
) -> Record:
    torch.manual_seed(0)
    h = ForwardTransform(old_dim, new_dim, side_dim, inner_dim)
    old, side = torch.randn(n, old_dim), torch.randn(n, side_dim) if side_dim else None
    h.raw(old[:256].repeat(2, 1), None if side is None else side[:256].repeat(2, 1))
    spec = h.eval().to_spec()
    up, chain = Upgrader(spec, precision="fp32", level=level), folded_chain(spec)
    torch.testing.assert_close(
        up(old[:64], None if side is None else side[:64]),
        chain(old[:64], None if side is None else side[:64]),
        atol=1e-5,
        rtol=1e-4,
    )
    arrays = (old.numpy(), None if side is None else side.numpy())
    record = Record(
        f"upgrade fp32, {old_dim} + {side_dim} -> {inner_dim} -> {inner_dim} -> {new_dim}",
        {"rows": n, "level": up.level, "threads": up.threads},
    )
    record.timings = interleave(
        {"fct_fast": lambda: up(*arrays), "torch folded fp32": lambda: chain(old, side)},
        rounds=SMALL_BATCH_ROUNDS if n <= 64 else 7,
    )
    ours, theirs = record.timings["fct_fast"].median_s, record.timings["torch folded fp32"].median_s
    record.figures = {
        "rows/s": n / ours,
        "GFLOP/s": n * spec.flops_per_row / ours / 1e9,
        "torch rows/s": n / theirs,
        "times torch": theirs / ours,
        "share of torch's time": ours / theirs,
    }
    return record


def int8_record(old_dim: int, side_dim: int, inner_dim: int, new_dim: int, n: int, level: str | None = None) -> Record:
    """int8 beside fp32 and torch: folded fp32, and folded bf16 where the processor has bf16 instructions."""
    torch.manual_seed(0)
    h = ForwardTransform(old_dim, new_dim, side_dim, inner_dim)
    old, side = torch.randn(n, old_dim), torch.randn(n, side_dim)
    h.raw(old[:256].repeat(2, 1), side[:256].repeat(2, 1))
    spec = h.eval().to_spec()
    arrays = old.numpy(), side.numpy()
    calibration = arrays[0][:1024], arrays[1][:1024]
    up = Upgrader(spec, precision="int8", calibration=calibration, level=level)
    wide = Upgrader(spec, precision="fp32", level=level)
    chain = folded_chain(spec)
    contenders = {
        "fct_fast int8": lambda: up(*arrays),
        "fct_fast fp32": lambda: wide(*arrays),
        "torch folded fp32": lambda: chain(old, side),
    }
    if native().has_bf16(resolve_level(level)):
        narrow = folded_chain(spec, torch.bfloat16)
        contenders["torch folded bf16"] = lambda: narrow(old.bfloat16(), side.bfloat16())
    record = Record(
        f"upgrade int8, {old_dim} + {side_dim} -> {inner_dim} -> {inner_dim} -> {new_dim}",
        {"rows": n, "level": up.level, "threads": up.threads},
    )
    record.timings = interleave(contenders)
    seconds = {name: timing.median_s for name, timing in record.timings.items()}
    ours = seconds["fct_fast int8"]
    few = arrays[0][:256], arrays[1][:256]
    true = spec.apply_float64(*few)
    record.figures = {
        "rows/s": n / ours,
        "GOP/s": n * spec.flops_per_row / ours / 1e9,
        **{f"times {name}": theirs / ours for name, theirs in seconds.items() if theirs != ours},
        "relative error, random weights": float(np.linalg.norm(up(*few) - true) / np.linalg.norm(true)),
    }
    return record


def records() -> list[Record]:
    shapes = [(128, 128, 2048, 128, n) for n in (1, 4, 16, 64, 256, 1024, 16384)]
    shapes += [
        (64, 64, 512, 64, 65536),
        (768, 64, 2048, 1024, 4096),
        (512, 0, 1024, 512, 16384),
        (16, 0, 64, 16, 65536),
        (64, 64, 512, 64, 1),
        (16, 0, 64, 16, 1),
    ]
    int8 = [int8_record(128, 128, 2048, 128, n) for n in (1, 64, 1024, 16384)] + [int8_record(64, 64, 512, 64, 65536)]
    wide = upgrade_record(128, 128, 2048, 128, 16384, level="avx2")
    return [upgrade_record(*shape) for shape in shapes] + [wide] + int8
