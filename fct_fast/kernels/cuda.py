"""The CUDA kernels, which are off unless FCT_FAST_CUDA_UNVERIFIED=1: none of them has run on a GPU yet.

Imports torch only where torch tensors come in.
"""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

from fct_fast.errors import ConfigError, DeviceError
from fct_fast.kernels import native, usable_threads
from fct_fast.kernels.arrays import is_torch
from fct_fast.kernels.int8 import Int8Transform
from fct_fast.kernels.packing import int8_fields, spec_fields
from fct_fast.kernels.status import OVERFLOW
from fct_fast.spec import TransformSpec

__all__ = ["SWITCH", "CudaEngine", "cuda_device", "cuda_text"]

SWITCH = "FCT_FAST_CUDA_UNVERIFIED"
_OFF = f"no CUDA kernel of this version has run on a GPU yet, so they are off; {SWITCH}=1 turns them on"

# Device memory that a call's chunk may take.
_SCRATCH_BYTES = 2 << 30

# Kernels of a job are chosen as for so many rows, however few a shard has, so that all rows come from one family.
JOB_ROWS = 1 << 17


def cuda_text() -> str:
    """The state of the CUDA kernels in one sentence, for `fct-fast doctor`."""
    state = native().cuda_state()
    devices = ", ".join(
        f"{device['name']} (device {device['device']}, compute capability {device['compute'] / 10:.1f})"
        for device in state["devices"]
    )
    found = f"usable: {devices}" if devices else f"not usable here: {state['problem']}"
    return f"{found}; turned on, though none has run on a GPU yet" if _is_on() else f"{_OFF}; {found}"


def cuda_device(name: str) -> int:
    """The number of "cuda" or "cuda:N". Raises ConfigError for another name, DeviceError where it cannot be used."""
    kind, _, number = name.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()) or name.endswith(":"):
        raise ConfigError(f"device is {name!r}; use 'auto', 'cpu', 'cuda' or 'cuda:N'")
    device = int(number or 0)
    if not _is_on():
        raise DeviceError(f"device {name!r} cannot be used: {_OFF} (device='cpu' always works)")
    state = native().cuda_state()
    if device not in {usable["device"] for usable in state["devices"]}:
        reason = state["problem"] or f"this process sees {len(state['devices'])} usable CUDA devices"
        raise DeviceError(f"device {name!r} cannot be used: {reason}")
    return device


def _is_on() -> bool:
    return os.environ.get(SWITCH) == "1"


class CudaEngine:
    """A transform on one CUDA device. Rows that leave float16's range are computed again in float32.

    quantized: of the same spec, with precision "int8". threads: of the CPU, for host arrays. like_rows: kernels are
    chosen as for so many rows, 0: as for a call's own.
    """

    def __init__(
        self,
        spec: TransformSpec,
        precision: str,
        device: int,
        quantized: Int8Transform | None = None,
        threads: int | None = None,
        like_rows: int = 0,
    ) -> None:
        self._spec = spec
        self._quantized = quantized
        self._device = device
        self._threads = threads or usable_threads(None)
        self._like_rows = like_rows
        self.precision = precision
        self._kernel = self._made(precision)
        self._wide: Any = None  # float32, made when the first row needs it

    def plan(self, rows: int) -> str:
        """What a call of so many rows runs: kernels, tiles, chunk, memory."""
        text: str = self._kernel.plan(rows, _SCRATCH_BYTES)
        return text

    def family(self, rows: int) -> str:
        """The kernel family that runs for so many rows, with what else decides the bits: the compute capability."""
        facts = next(found for found in native().cuda_state()["devices"] if found["device"] == self._device)
        return f"sm_{facts['compute']} {self._kernel.family(rows)}"

    def for_jobs(self) -> CudaEngine:
        """The same weights with one kernel family for any number of rows."""
        other = copy.copy(self)
        other._like_rows = JOB_ROWS
        return other

    def run(self, old: Any, side: Any, out: Any, s: Any, status: Any, like_rows: int = 0) -> None:
        """Fills out [n, new_dim], s [n] or None, status uint8 [n]. All on the host, or all on the device (torch).

        like_rows: kernels are chosen as for so many rows, where the engine has no number of its own. Ctrl-C ends a call
        on the host within 0.2 s. Warns (RuntimeWarning) where memory ran short.
        """
        like_rows = self._like_rows or like_rows
        self._run(self._kernel, old, side, out, s, status, like_rows)
        if self.precision != "fp16":
            return
        again = status == OVERFLOW
        if not bool(again.any()):
            return
        if self._wide is None:
            self._wide = self._made("fp32")
        part_out, part_status = out[again], status[again]
        part_s = None if s is None else s[again]
        part_side = None if side is None else side[again]
        self._run(self._wide, old[again], part_side, part_out, part_s, part_status, 0)  # float32: one family
        out[again], status[again] = part_out, part_status
        if s is not None:
            s[again] = part_s

    def _made(self, precision: str) -> Any:
        *numbers, branches, trunk = spec_fields(self._spec) if self._quantized is None else int8_fields(self._quantized)
        return native().CudaUpgrade(*numbers, precision, branches, trunk, self._device)

    def _run(self, kernel: Any, old: Any, side: Any, out: Any, s: Any, status: Any, like_rows: int) -> None:
        stream = None
        if is_torch(old) and old.device.type == "cuda":
            import torch

            stream = torch.cuda.current_stream(old.device).cuda_stream
        chunk, planned = kernel.run(old, side, out, s, status, _SCRATCH_BYTES, stream, self._threads, like_rows)
        if chunk < planned:
            warnings.warn(
                f"CUDA device {self._device} is short of memory: rows went in chunks of {chunk:,} instead of "
                f"{planned:,}, which is slower; free memory on it",
                RuntimeWarning,
                stacklevel=5,
            )
