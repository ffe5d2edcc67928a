"""The stage `ceiling`: what this device reaches by torch's own means, beside which the other stages are read."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.measure import record, timed
from benchmarks.gpu.state import Document

MATMUL = 8192
LINK_BYTES = 256 << 20


def ceiling() -> list[dict[str, Any]]:
    import torch

    a, b = (torch.randn(MATMUL, MATMUL, device="cuda").half() for _ in range(2))
    host_in, host_out = (torch.empty(LINK_BYTES, dtype=torch.uint8).pin_memory() for _ in range(2))
    there_in, there_out = (torch.empty(LINK_BYTES, dtype=torch.uint8, device="cuda") for _ in range(2))
    wide, target = (torch.empty(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(2))
    up, down = torch.cuda.Stream(), torch.cuda.Stream()

    def both() -> None:
        now = torch.cuda.current_stream()
        for stream, to, source in ((up, there_in, host_in), (down, host_out, there_out)):
            stream.wait_stream(now)
            with torch.cuda.stream(stream):
                to.copy_(source, non_blocking=True)
            now.wait_stream(stream)

    timings = timed(
        {
            "fp16 matmul 8192^3": lambda: torch.mm(a, b),
            "host to device": lambda: there_in.copy_(host_in, non_blocking=True),
            "device to host": lambda: host_out.copy_(there_out, non_blocking=True),
            "both ways at once": both,
            "device to device": lambda: target.copy_(wide),
        }
    )

    def rate(name: str, amount: float) -> float:
        return amount / (timings[name]["median_ms"] * 1e-3)

    figures = {
        "matmul TFLOP/s": rate("fp16 matmul 8192^3", 2 * MATMUL**3) / 1e12,
        "host to device GB/s": rate("host to device", LINK_BYTES) / 1e9,
        "device to host GB/s": rate("device to host", LINK_BYTES) / 1e9,
        "both ways GB/s each": rate("both ways at once", LINK_BYTES) / 1e9,
        "memory GB/s, read and written": rate("device to device", 2 * (1 << 30)) / 1e9,
    }
    return [record("what the device reaches", {}, timings, figures)]


def figures_of(document: Document) -> dict[str, float]:
    """The figures of this stage; empty where it has not passed."""
    stage = document.stages.get("ceiling") or {}
    return dict((stage.get("figures") or [{"figures": {}}])[0]["figures"])
