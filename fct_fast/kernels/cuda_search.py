"""Search on a GPU: the CUDA top-k over tensors of one device, and host arrays that are fed to it. Imports torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fct_fast.kernels import native
from fct_fast.kernels.arrays import is_torch

__all__ = ["CudaMerge", "current", "fed", "on_device"]

# Device memory that a search may take beside its arrays.
_SCRATCH_BYTES = 1 << 30


class CudaMerge:
    """A top-k result over galleries that arrive in pieces, in row order; all on the GPU that the queries are on.

    queries [nq, dim], a tensor of the device. coarse: the scores that choose the rows that are scored in float32:
    "fp16", "int8" (not for "l2"), or "fp32" for all rows; the answer is the same.
    """

    def __init__(self, queries: Tensor, k: int, metric: str, coarse: str) -> None:
        self._queries, self._k, self._metric, self._coarse = queries, k, metric, coarse
        self._scores = torch.empty((queries.shape[0], k), dtype=torch.float32, device=queries.device)
        self._ids = torch.empty((queries.shape[0], k), dtype=torch.int64, device=queries.device)
        self._rows = 0

    def add(self, gallery: Tensor) -> None:
        """gallery [m, dim], a tensor of the device; the first piece must hold at least k rows."""
        if self._queries.shape[0] > 0:
            device = self._queries.device
            native().cuda_topk(
                device.index or 0,
                self._queries,
                gallery,
                self._metric,
                self._k,
                self._rows,
                self._rows > 0,
                self._coarse,
                self._scores.view(-1),
                self._ids.view(-1),
                _SCRATCH_BYTES,
                torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0,
            )
        self._rows += int(gallery.shape[0])

    def result(self) -> tuple[Tensor, Tensor]:
        """scores [nq, k], ids [nq, k], on the device."""
        return self._scores, self._ids


def on_device(rows: Any, device: torch.device) -> Tensor:
    """rows [n, dim], numpy or torch, as a tensor of the device; no copy where it is one."""
    tensor: Tensor = rows if is_torch(rows) else torch.from_numpy(np.require(rows, requirements="W"))
    return tensor.to(device)


def current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes a GPU the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def fed(arrays: Sequence[Any], chunk_rows: int, device: torch.device) -> Iterator[tuple[int, list[Tensor]]]:
    """(first row, the chunk's rows of each array as tensors of the device), in row order.

    arrays: host arrays [n, dim], numpy or torch, of one length. Chunk i + 1 crosses the link, from one of two pinned
    buffers, while the device works on chunk i. A chunk's tensors hold until the next is asked for.
    """
    rows = int(arrays[0].shape[0])
    starts = range(0, rows, chunk_rows)
    slots = [_Slot(arrays, min(chunk_rows, rows), device) for _ in range(min(2, len(starts)))]
    lane = _Lane(device)

    def send(index: int) -> None:
        if index < len(starts):
            slots[index % 2].send(arrays, starts[index], min(chunk_rows, rows - starts[index]), lane)

    try:
        send(0)
        for index, start in enumerate(starts):
            send(index + 1)
            yield start, slots[index % 2].received(lane)
            slots[index % 2].leave(lane)
    finally:
        lane.drain()  # before the buffers go


class _Lane:
    """The stream of the copies, and the one that the caller works on; nothing of either where the device is the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self.copies: Any = None
        self.work: Any = None
        if self._on_gpu:
            self.copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self.work = torch.cuda.current_stream(device)
            self.copies.wait_stream(self.work)  # what the buffers' memory was used for before

    def event(self) -> Any:
        return torch.cuda.Event() if self._on_gpu else None  # type: ignore[no-untyped-call]

    def drain(self) -> None:
        if self.copies is not None:
            self.copies.synchronize()


class _Slot:
    """Pinned and device memory of one chunk, and when each may be written again."""

    def __init__(self, arrays: Sequence[Any], rows: int, device: torch.device) -> None:
        pin = device.type == "cuda"
        shapes = [((rows, int(x.shape[1])), _dtype_of(x)) for x in arrays]
        self._pinned = [torch.empty(shape, dtype=dtype, pin_memory=pin) for shape, dtype in shapes]
        self._there = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in shapes]
        self._rows = 0
        self._sent: Any = None
        self._left: Any = None

    def send(self, arrays: Sequence[Any], start: int, rows: int, lane: _Lane) -> None:
        if self._sent is not None:
            self._sent.synchronize()
        self._rows = rows
        for pinned, rows_of in zip(self._pinned, arrays, strict=True):
            _fill(pinned[:rows], rows_of[start : start + rows])
        if lane.copies is not None and self._left is not None:
            lane.copies.wait_event(self._left)
        with torch.cuda.stream(lane.copies):
            for pinned, there in zip(self._pinned, self._there, strict=True):
                there[:rows].copy_(pinned[:rows], non_blocking=True)
        self._sent = _marked(lane.event(), lane.copies)

    def received(self, lane: _Lane) -> list[Tensor]:
        if lane.work is not None:
            lane.work.wait_event(self._sent)
        return [there[: self._rows] for there in self._there]

    def leave(self, lane: _Lane) -> None:
        self._left = _marked(lane.event(), lane.work)


def _marked(event: Any, stream: Any) -> Any:
    if event is not None:
        event.record(stream)
    return event


def _fill(target: Tensor, rows: Any) -> None:
    if is_torch(rows):
        target.copy_(rows)
    else:
        np.copyto(target.numpy(), rows)


def _dtype_of(rows: Any) -> torch.dtype:
    if is_torch(rows):
        dtype: torch.dtype = rows.dtype
        return dtype
    return {"float32": torch.float32, "float16": torch.float16}[rows.dtype.name]
