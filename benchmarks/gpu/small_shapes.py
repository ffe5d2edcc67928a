"""python -m benchmarks.gpu.small_shapes: every kernel once at small and odd sizes, for a sanitizer to watch.

The upgrade goes by host arrays, without torch, whose own start under a sanitizer takes minutes; the search needs torch.
"""

from __future__ import annotations

import sys

import numpy as np

from fct_fast import Upgrader
from fct_fast.spec import Branch, Layer, TransformSpec


def spec_of(old_dim: int, side_dim: int, inner_dim: int, new_dim: int) -> TransformSpec:
    draw = np.random.default_rng(0)

    def layer(inputs: int, outputs: int, relu: bool) -> Layer:
        weight = draw.standard_normal((outputs, inputs)) * np.sqrt(2 / inputs)
        return Layer(weight.astype(np.float32), np.full(outputs, 0.1, np.float32), relu)

    branches = (Branch("old", (layer(old_dim, inner_dim, True),)),)
    branches += (Branch("side", (layer(side_dim, inner_dim, True),)),) if side_dim else ()
    trunk = (layer(inner_dim * len(branches), inner_dim, True), layer(inner_dim, new_dim, False))
    return TransformSpec(old_dim=old_dim, side_dim=side_dim, new_dim=new_dim, branches=branches, trunk=trunk)


def main() -> None:
    draw = np.random.default_rng(1)
    for dims in ((7, 3, 40, 9), (33, 0, 140, 17), (64, 64, 256, 64)):
        spec = spec_of(*dims)
        calibration = [draw.standard_normal((50, dim), dtype=np.float32) for dim in (spec.old_dim, spec.side_dim)]
        few = (calibration[0], calibration[1] if spec.side_dim else None)
        for precision in ("fp16", "bf16", "fp32", "int8"):
            up = Upgrader(spec, device="cuda", precision=precision, calibration=few if precision == "int8" else None)
            for n in (1, 17, 129, 300):
                old = draw.standard_normal((n, spec.old_dim), dtype=np.float32)
                side = draw.standard_normal((n, spec.side_dim), dtype=np.float32) if spec.side_dim else None
                old[0, 0] = np.nan if n == 17 else 1e6 if n == 129 else 0
                up(old, side, nonfinite="flag")
    print("upgrade done", flush=True)
    import torch

    from fct_fast import evaluate, topk

    for dim, n, k in ((13, 700, 5), (64, 3000, 100), (64, 3000, 130), (40, 2500, 2048)):
        queries, gallery = torch.randn(9, dim).cuda(), torch.randn(n, dim).cuda()
        for metric in ("cosine", "ip", "l2"):
            for precision in ("auto", "fp32") if metric == "l2" else ("auto", "fp32", "int8"):
                for rows in (gallery, gallery.half()):
                    topk(queries, rows, k, metric, precision)
    for dim in (64, 200, 520):  # on compute capability 9.0 by TMA and wgmma
        topk(torch.randn(70, dim).cuda().half(), torch.randn(1500, dim).cuda().half(), 10)
    for classes, metric in ((1, "l2"), (40, "cosine"), (6000, "ip")):
        rows = torch.randn(6000, 20).cuda()
        evaluate(rows[:30], rows, torch.arange(30) % classes, torch.arange(6000) % classes, metric, True)
    torch.cuda.synchronize()
    print("small shapes done", flush=True)


if __name__ == "__main__":
    sys.exit(main())
