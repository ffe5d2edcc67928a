"""The torch operator `fct_fast::upgrade`, so that torch.compile and torch.export see through an Upgrader.

The packed weights come in as a tensor, not as a handle: an exported program carries them and runs in another process.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fct_fast.kernels import native, usable_threads
from fct_fast.kernels.status import check_status

__all__ = ["upgrade"]


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
