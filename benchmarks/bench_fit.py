"""Training h from cached rows, beside the matrix products alone that it cannot do without.

The default h (128 + 128 -> 2048 -> 2048 -> 128), one whole epoch over a million rows in batches of 1024, the statistics
of BatchNorm at its end included. The bound is the products of forward and backward as torch runs them on the same
shapes, nothing else: for each layer x @ W.T, and the gradients of W and (but for the first layers) of x; measured on 48
batches before the epoch and 48 after it.
"""

from __future__ import annotations

import statistics
import time

import torch

from benchmarks.harness import Record
from fct_fast.bench import Timing
from fct_fast.training.config import FitConfig
from fct_fast.training.losses import TransformLoss
from fct_fast.training.pairs import Pairs
from fct_fast.training.transform_loop import Batches, train_transform
from fct_fast.transform import ForwardTransform

ROWS, DIM, BATCH, STEPS = 1_000_000, 128, 1024, 48


def products(h: ForwardTransform) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]]:
    """Of each layer: x, W, dy, and whether x has a gradient."""
    found = []
    for branch in h.branches:
        found += [
            (layer, i > 0) for i, layer in enumerate(m for m in branch.modules() if isinstance(m, torch.nn.Linear))
        ]
    found += [(m, True) for m in h.trunk.modules() if isinstance(m, torch.nn.Linear)]
    return [
        (torch.randn(BATCH, layer.in_features), layer.weight.detach(), torch.randn(BATCH, layer.out_features), inner)
        for layer, inner in found
    ]


def bound_seconds(layers: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]]) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        for x, weight, dy, inner in layers:
            x @ weight.T
            dy.T @ x
            if inner:
                dy @ weight
    return time.perf_counter() - start


def records() -> list[Record]:
    torch.manual_seed(0)
    arrays = [torch.randn(ROWS, DIM) for _ in range(3)]
    pairs = Pairs(*(x[None] for x in arrays), views=1)
    config = FitConfig(epochs=1, batch_size=BATCH, warmup_epochs=0.0, eval_mode_switch=False, device="cpu")
    loss = TransformLoss(config.loss, DIM)
    h = ForwardTransform(DIM, DIM, DIM).train()
    layers = products(h)

    def train(rows: torch.Tensor) -> float:
        batches = Batches(pairs, rows, {"old": 1.0, "side": 1.0, "new": 1.0}, config)
        start = time.perf_counter()
        train_transform(h.train(), batches, loss)
        return time.perf_counter() - start

    train(torch.arange(4 * BATCH))  # to warm up
    bound_seconds(layers)
    before = bound_seconds(layers)
    trained = train(torch.arange(ROWS))
    alone = [before, bound_seconds(layers)]
    record = Record("training h", {"cached rows": ROWS, "batch": BATCH, "threads": torch.get_num_threads()})
    record.timings = {
        "an epoch": Timing(trained, trained, 1),
        f"products alone, {STEPS} batches": Timing(statistics.median(alone), min(alone), 2),
    }
    rate, bound = ROWS / trained, STEPS * BATCH / statistics.median(alone)
    record.figures = {
        "rows/s": rate,
        "rows/s of the products alone": bound,
        "products alone, after over before": alone[1] / alone[0],
        "share of the bound": rate / bound,
    }
    return [record]
