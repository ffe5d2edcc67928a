"""The upgrade beside torch: the kernels of one h, by precision and batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fct_fast.bench.chain import folded_chain
from fct_fast.bench.turns import take_turns
from fct_fast.kernels import native, resolve_level
from fct_fast.spec import TransformSpec
from fct_fast.transform import ForwardTransform
from fct_fast.upgrader import Upgrader

__all__ = ["UpgradeSpeed", "compare_upgrade", "measure_upgrade", "random_transform", "usable_precisions"]

F32 = npt.NDArray[np.float32]

_TORCH_BATCHES = (2048, 16384)
_PEAK_ROWS = 4096  # with fewer, the peak of the registers says nothing
_PEAK_SECONDS = 0.3
_CALIBRATION_ROWS = 1024
# Short calls take more rounds, so that one disturbed call does not set the median.
_SHORT_ROWS, _SHORT_ROUNDS, _ROUNDS = 64, 51, 5
# What torch runs beside each precision. It has no int8 form of h: there it runs the precision that users have today.
_PEER = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}


@dataclass(frozen=True)
class UpgradeSpeed:
    """Medians of calls from host arrays to host arrays."""

    precision: str
    rows: int
    """Of one call."""
    seconds: float
    torch_seconds: float
    """torch on the same rows and threads, at its best batch size."""
    torch_dtype: str
    flops_per_row: int
    peak_share: float | None
    """Of what the registers can do on these threads, measured beside it; None for few rows and on a GPU."""

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds

    @property
    def flops_per_s(self) -> float:
        return self.rows_per_s * self.flops_per_row

    @property
    def times_torch(self) -> float:
        return self.torch_seconds / self.seconds


def random_transform(
    old_dim: int = 128, side_dim: int = 128, inner_dim: int = 2048, new_dim: int = 128
) -> TransformSpec:
    """An h of random weights with BatchNorm folded on random rows; the default is the paper's shape."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        h = ForwardTransform(old_dim, new_dim, side_dim, inner_dim)
        h.raw(torch.randn(512, old_dim), torch.randn(512, side_dim) if side_dim else None)
        return h.eval().to_spec()


def usable_precisions(device: str = "auto") -> tuple[str, ...]:
    """What the upgrade can be asked for there; bf16 needs a processor that has it."""
    if device not in ("auto", "cpu"):
        return "fp16", "bf16", "fp32", "int8"
    return ("fp32", "bf16", "int8") if native().has_bf16(resolve_level()) else ("fp32", "int8")


def measure_upgrade(
    spec: TransformSpec, precision: str, rows: Sequence[int], *, device: str = "auto", threads: int | None = None
) -> list[UpgradeSpeed]:
    """One h in one precision at each batch size, on random rows.

    int8 takes its scales from random rows too: its speed does not depend on them, and no accuracy follows from this.
    Raises ConfigError and DeviceError as Upgrader does.
    """
    rng = np.random.default_rng(0)
    calibration = _random_rows(rng, spec, _CALIBRATION_ROWS) if precision == "int8" else None
    up = Upgrader(spec, device=device, precision=precision, threads=threads, calibration=calibration)
    dtype = torch.float16 if precision == "int8" and up.device != "cpu" else _PEER[precision]
    found = []
    for n in rows:
        old, side = _random_rows(rng, spec, n)
        ours, theirs = _seconds(up, old, side, dtype, _SHORT_ROUNDS if n <= _SHORT_ROWS else _ROUNDS)
        share = None
        if n >= _PEAK_ROWS and up.device == "cpu":
            peak = 2 * native().peak_rate(up.level, precision, up.threads, _PEAK_SECONDS)
            share = n * spec.flops_per_row / ours / peak
        name = str(dtype).removeprefix("torch.")
        found.append(UpgradeSpeed(precision, n, ours, theirs, name, spec.flops_per_row, share))
    return found


def compare_upgrade(up: Upgrader, old: F32, side: F32 | None, *, rows: int = 32768) -> tuple[float, float]:
    """Rows per second of (the kernel, torch in float32) on the given rows, repeated up to `rows`."""
    old = np.resize(old, (rows, old.shape[1]))
    side = None if side is None else np.resize(side, (rows, side.shape[1]))
    ours, theirs = _seconds(up, old, side, torch.float32, _ROUNDS)
    return rows / ours, rows / theirs


def _seconds(up: Upgrader, old: F32, side: F32 | None, dtype: torch.dtype, rounds: int) -> tuple[float, float]:
    """Medians of (the kernel, torch at its best batch size) for all rows."""
    out = np.empty((len(old), up.new_dim), np.float32)
    contenders: dict[str, Callable[[], object]] = {"ours": lambda: up(old, side, out=out)}
    for batch in {min(batch, len(old)) for batch in (*_TORCH_BATCHES, len(old))}:
        contenders[f"torch {batch}"] = _torch_run(up, old, side, dtype, batch)
    threads = torch.get_num_threads()
    torch.set_num_threads(up.threads)
    try:
        seconds = {name: timing.median_s for name, timing in take_turns(contenders, rounds).items()}
    finally:
        torch.set_num_threads(threads)
    return seconds.pop("ours"), min(seconds.values())


def _torch_run(up: Upgrader, old: F32, side: F32 | None, dtype: torch.dtype, batch: int) -> Callable[[], None]:
    """torch on the same rows, from host memory to host memory."""
    chain = folded_chain(up.spec, dtype, up.device)
    tensors = torch.from_numpy(old), None if side is None else torch.from_numpy(side)
    if up.device == "cpu":  # before the clock starts, so that the peer does not pay for a cast
        tensors = tensors[0].to(dtype), None if tensors[1] is None else tensors[1].to(dtype)

    def run() -> None:
        for start in range(0, len(old), batch):
            part, beside = (None if x is None else x[start : start + batch].to(up.device, dtype) for x in tensors)
            assert part is not None
            chain(part, beside).cpu()

    return run


def _random_rows(rng: np.random.Generator, spec: TransformSpec, n: int) -> tuple[F32, F32 | None]:
    old = rng.standard_normal((n, spec.old_dim), dtype=np.float32)
    return old, rng.standard_normal((n, spec.side_dim), dtype=np.float32) if spec.side_dim else None
