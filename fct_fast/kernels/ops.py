"""The torch operator `fct_fast::upgrade`, so that torch.compile and torch.export see through an Upgrader.

The packed weights come in as a tensor, not as a handle: an exported program carries them and runs in another process.
On CUDA tensors they stand for the engine of the Upgrader that packed them, so there an exported program is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from fct_fast.errors import DeviceError
from fct_fast.kernels import native, usable_threads
from fct_fast.kernels.status import check_status

__all__ = ["bind_engine", "upgrade"]

_ENGINES: Any = WeakTensorKeyDictionary()  # packed -> CudaEngine


def bind_engine(packed: Tensor, engine: Any) -> None:
    """From now on the operator runs CUDA tensors that come with `packed` by this CudaEngine."""
    _ENGINES[packed] = engine


@torch.library.custom_op("fct_fast::upgrade", mutates_args=())
def upgrade(
    packed: Tensor,
    old: Tensor,
    side: Tensor | None,
    new_dim: int,
    out_dtype: torch.dtype,
    uncertainty: bool,
    raise_nonfinite: bool,
    level: str,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """packed uint8 [bytes], old [n, old_dim], side [n, side_dim] -> new [n, new_dim], s float32 [n or 0], bad bool [n].

    level "" and threads 0 mean the machine's own. Raises as Upgrader does.
    """
    rows = old.shape[0]
    new = torch.empty((rows, new_dim), dtype=out_dtype, device="cpu")
    s = torch.empty(rows if uncertainty else 0, dtype=torch.float32, device="cpu")
    status = torch.empty(rows, dtype=torch.uint8, device="cpu")
    native().upgrade(packed, level, old, side, new, s if uncertainty else None, status, threads or usable_threads(None))
    if raise_nonfinite:
        check_status(status.numpy())
    return new, s, status != 0


@upgrade.register_kernel("cuda")
def upgrade_cuda(
    packed: Tensor,
    old: Tensor,
    side: Tensor | None,
    new_dim: int,
    out_dtype: torch.dtype,
    uncertainty: bool,
    raise_nonfinite: bool,
    level: str,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same on CUDA tensors."""
    engine = _ENGINES.get(packed)
    if engine is None:
        raise DeviceError(
            "fct_fast::upgrade got CUDA tensors with weights that no Upgrader of this process holds on a GPU; make the "
            "Upgrader with device='cuda', or pass CPU tensors (an exported program runs on the CPU)"
        )
    rows = old.shape[0]
    new = old.new_empty((rows, new_dim), dtype=out_dtype)
    s = old.new_empty(rows if uncertainty else 0, dtype=torch.float32)
    status = old.new_empty(rows, dtype=torch.uint8)
    engine.run(old, side, new, s if uncertainty else None, status)
    if raise_nonfinite:
        check_status(status.cpu().numpy())
    return new, s, status != 0


@upgrade.register_fake
def _(
    packed: Tensor,
    old: Tensor,
    side: Tensor | None,
    new_dim: int,
    out_dtype: torch.dtype,
    uncertainty: bool,
    raise_nonfinite: bool,
    level: str,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = old.shape[0]
    return (
        old.new_empty((rows, new_dim), dtype=out_dtype),
        old.new_empty(rows if uncertainty else 0, dtype=torch.float32),
        old.new_empty(rows, dtype=torch.bool),
    )
