"""The clock of the GPU for pytest-benchmark."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["EventTimer"]


class EventTimer:
    """Seconds on the current stream since the first call, between CUDA events. Each call waits for the device.

    Events are compared with the one before: a CUDA event keeps milliseconds as a float32, which would be coarse after
    some minutes.
    """

    def __init__(self) -> None:
        self._before: Any = None
        self._seconds = 0.0

    def __call__(self) -> float:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        event.synchronize()
        if self._before is not None:
            self._seconds += 1e-3 * self._before.elapsed_time(event)
        self._before = event
        return self._seconds
