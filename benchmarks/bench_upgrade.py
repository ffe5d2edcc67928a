"""Upgrade beside what a user could run h with instead, BatchNorm folded (see peers.py), on the same h."""

from __future__ import annotations

import multiprocessing

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Record, extra_memory_mb, seconds_to_read
from benchmarks.peers import compiled_chain, onnx_chain
from fct_fast import TransformSpec, Upgrader
from fct_fast.bench import folded_chain, random_transform, take_turns
from fct_fast.kernels import native, resolve_level

# A millisecond each: many rounds, so that one disturbed call does not set the median.
SMALL_BATCH_ROUNDS = 101
FEW_ROWS = 16
PEAK_ROWS = 16384  # from here on a rate is held against the peak of the registers
PEAK_SECONDS = 0.1
CALIBRATION_ROWS = 1024

Shape = tuple[int, int, int, int]
"""old_dim, side_dim, inner_dim, new_dim."""


def random_rows(shape: Shape, n: int) -> tuple[Tensor, Tensor | None]:
    return torch.randn(n, shape[0]), torch.randn(n, shape[1]) if shape[1] else None


def title(precision: str, shape: Shape) -> str:
    old_dim, side_dim, inner_dim, new_dim = shape
    return f"upgrade {precision}, {old_dim} + {side_dim} -> {inner_dim} -> {inner_dim} -> {new_dim}"


def add_rates(record: Record, spec: TransformSpec, up: Upgrader, n: int, ours: float) -> None:
    """Rows and operations a second, and where there are many rows the share of what the registers can do."""
    rate = n * spec.flops_per_row / ours
    if n <= FEW_ROWS:  # the weights are read once a call, whatever n
        reading = seconds_to_read(np.ones_like(up._packed), up.threads)
        record.figures |= {"reading the packed weights, ms": 1e3 * reading, "share of reading": reading / ours}
    record.figures |= {"rows/s": n / ours, "GFLOP/s": rate / 1e9}
    if n >= PEAK_ROWS:

        def peak(threads: int) -> float:
            return native().peak_rate(up.level, up.precision, threads, PEAK_SECONDS)

        # A peak is what there is at best: a disturbed moment does not lower it.
        rates = [(peak(1), peak(up.threads)) for _ in range(5)]
        one, all_threads = (2 * max(found) for found in zip(*rates, strict=True))
        record.figures |= {
            "register peak, GFLOP/s": all_threads / 1e9,
            "peak of all threads over that of one": all_threads / one,
            "share of the register peak": rate / all_threads,
        }


def upgrade_record(shape: Shape, n: int, level: str | None = None, *, slow_peers: bool = False) -> Record:
    """slow_peers: torch.compile and ONNX Runtime, too."""
    spec = random_transform(*shape)
    old, side = random_rows(shape, n)
    up, chain = Upgrader(spec, precision="fp32", level=level), folded_chain(spec)
    few = old[:64], None if side is None else side[:64]
    torch.testing.assert_close(up(*few), chain(*few), atol=1e-5, rtol=1e-4)
    arrays = old.numpy(), None if side is None else side.numpy()
    contenders = {"fct_fast": lambda: up(*arrays), "torch folded fp32": lambda: chain(old, side)}
    if slow_peers:
        compiled, onnx = compiled_chain(spec), onnx_chain(spec, up.threads)
        contenders["torch.compile fp32"] = lambda: compiled(old, side)
        if onnx is not None:
            torch.testing.assert_close(up(*few), onnx(*few), atol=1e-5, rtol=1e-4)
            contenders["ONNX Runtime fp32"] = lambda: onnx(old, side)
    record = Record(title("fp32", shape), {"rows": n, "level": up.level, "threads": up.threads})
    record.timings = take_turns(contenders, rounds=SMALL_BATCH_ROUNDS if n <= 64 else 7)
    seconds = {name: timing.median_s for name, timing in record.timings.items()}
    ours = seconds.pop("fct_fast")
    add_rates(record, spec, up, n, ours)
    record.figures |= {f"times {name}": theirs / ours for name, theirs in seconds.items()}
    return record


def int8_record(shape: Shape, n: int, level: str | None = None) -> Record:
    """int8 beside fp32 and torch: folded fp32, and folded bf16 where the processor has bf16 instructions."""
    spec = random_transform(*shape)
    old, side = random_rows(shape, n)
    arrays = old.numpy(), None if side is None else side.numpy()
    calibration = tuple(None if x is None else x.numpy() for x in random_rows(shape, CALIBRATION_ROWS))
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
        contenders["torch folded bf16"] = lambda: narrow(old.bfloat16(), None if side is None else side.bfloat16())
    record = Record(title("int8", shape), {"rows": n, "level": up.level, "threads": up.threads})
    record.timings = take_turns(contenders, rounds=SMALL_BATCH_ROUNDS if n <= 64 else 7)
    seconds = {name: timing.median_s for name, timing in record.timings.items()}
    ours = seconds.pop("fct_fast int8")
    add_rates(record, spec, up, n, ours)
    record.figures |= {f"times {name}": theirs / ours for name, theirs in seconds.items()}
    few = tuple(None if x is None else x[:256] for x in arrays)
    true = spec.apply_float64(*few)
    record.figures["relative error, random weights"] = float(np.linalg.norm(up(*few) - true) / np.linalg.norm(true))
    return record


def extra_memory(precision: str, n: int) -> float:
    """MB that a first call takes beyond weights, inputs and output; to be run in a process of its own."""
    shape = 128, 128, 2048, 128
    old, side = (x.numpy() for x in random_rows(shape, n))
    up = Upgrader(random_transform(*shape), precision=precision, calibration=(old[:256], side[:256]))
    out = np.zeros((n, shape[3]), np.float32)
    out[:] = 1  # its pages are there before the call
    return extra_memory_mb(lambda: up(old, side, out=out))


def memory_record() -> Record:
    record = Record(
        "memory of an upgrade beyond weights, inputs and output, MB", {"h": "128 + 128 -> 2048 -> 2048 -> 128"}
    )
    for precision in ("fp32", "int8"):
        for n in (1, 16384, 131072):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                record.figures[f"{precision}, {n} rows"] = pool.apply(extra_memory, (precision, n))
    return record


def records() -> list[Record]:
    default: Shape = (128, 128, 2048, 128)
    found = [memory_record()]
    found += [upgrade_record(default, n, slow_peers=n in (1, 1024, 16384)) for n in (1, 4, 16, 64, 256, 1024, 16384)]
    # Small and odd shapes, which must not be slower than torch either; weights far below a cache line's worth included.
    small: list[tuple[Shape, int]] = [
        ((64, 64, 512, 64), 65536),
        ((768, 64, 2048, 1024), 4096),
        ((512, 0, 1024, 512), 16384),
        ((2048, 0, 4096, 1024), 2048),
        ((32, 32, 128, 32), 65536),
        ((16, 0, 64, 16), 65536),
        ((64, 64, 512, 64), 1),
        ((16, 0, 64, 16), 1),
    ]
    found += [upgrade_record(shape, n) for shape, n in small]
    if resolve_level() != "avx2" and "avx2" in native().usable_levels():
        found.append(upgrade_record(default, 16384, level="avx2"))
    found += [int8_record(default, n) for n in (1, 16, 64, 1024, 16384)]
    found += [int8_record((64, 64, 512, 64), 65536), int8_record((512, 0, 1024, 512), 16384)]
    return found
