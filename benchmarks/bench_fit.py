"""Training h from cached rows, beside the matrix products alone that it cannot do without.

The default h (128 + 128 -> 2048 -> 2048 -> 128) on batches of 1024 drawn at random from a million rows. The bound is
the products of forward and backward as torch runs them on the same shapes, nothing else: for each layer x @ W.T, and
the gradients of W and (but for the first layers) of x.
"""

from __future__ import annotations

import statistics
import time

import torch

from benchmarks.harness import Record, Timing
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


def records(rounds: int = 3) -> list[Record]:
    torch.manual_seed(0)
    arrays = [torch.randn(ROWS, DIM) for _ in range(3)]
    pairs = Pairs(*(x[None] for x in arrays), views=1)
    train = torch.randperm(ROWS)[: STEPS * BATCH].sort().values
    config = FitConfig(epochs=1, batch_size=BATCH, warmup_epochs=0.0, eval_mode_switch=False, device="cpu")
    batches = Batches(pairs, train, {"old": 1.0, "side": 1.0, "new": 1.0}, config)
    loss = TransformLoss(config.loss, DIM)
    layers = products(ForwardTransform(DIM, DIM, DIM))
    seconds: dict[str, list[float]] = {"training": [], "products alone": []}
    for number in range(rounds + 1):
        h = ForwardTransform(DIM, DIM, DIM)
        start = time.perf_counter()
        h.train()
        train_transform(h, batches, loss)
        trained = time.perf_counter() - start
        alone = bound_seconds(layers)
        if number:
            seconds["training"].append(trained)
            seconds["products alone"].append(alone)
    record = Record("training h", {"cached rows": ROWS, "batch": BATCH, "threads": torch.get_num_threads()})
    record.timings = {name: Timing(statistics.median(s), min(s), rounds) for name, s in seconds.items()}
    rate = {name: STEPS * BATCH / timing.median_s for name, timing in record.timings.items()}
    record.figures = {
        "rows/s": rate["training"],
        "rows/s of the products alone": rate["products alone"],
        "share of the bound": rate["training"] / rate["products alone"],
    }
    return [record]
