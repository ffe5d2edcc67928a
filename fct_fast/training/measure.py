"""What `fit` says about a transform: closeness and retrieval on held-out rows, and the range of its activations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fct_fast.evaluation import evaluate
from fct_fast.training.pairs import Pairs, chunks
from fct_fast.transform import ForwardTransform

__all__ = ["activation_maxima", "closeness", "retrieval", "uncertainty_agreement"]

EVAL_ROWS = 4096  # rows of one forward pass
RETRIEVAL_ROWS = 10_000  # rows that retrieval is measured on, evenly spaced


@torch.no_grad()
def closeness(h: ForwardTransform, pairs: Pairs, rows: Tensor, train: Tensor) -> dict[str, float]:
    """How close h, before normalisation, comes to new on `rows`: {"mse", "cosine" (mean), "r2"}.

    r2 is 1 - squared error / squared distance from the mean of the training rows, and absent where that is zero.
    """
    mean = _mean_target(pairs, train)
    error, spread, cosine = 0.0, 0.0, 0.0
    for part in chunks(rows, EVAL_ROWS):
        old, side, new = pairs.batch(part)
        out, new = h.raw(old, side)[:, : h.new_dim].double(), new.double()
        error += float((out - new).square().sum())
        spread += float((new - mean).square().sum())
        cosine += float(F.cosine_similarity(out, new, dim=1).sum())
    measured = {"mse": error / (len(rows) * len(mean)), "cosine": cosine / len(rows)}
    return measured | ({"r2": 1 - error / spread} if spread > 0 else {})


@torch.no_grad()
def retrieval(
    h: ForwardTransform | None,
    pairs: Pairs,
    rows: Tensor,
    classes: npt.NDArray[np.int64] | None,
    *,
    queries: bool = False,
) -> dict[str, float]:
    """Leave-one-out retrieval among `rows`: queries are the true target rows, the gallery is h of (old, side), or with
    h None the target rows themselves: {"cmc1", "cmc5", "map"}; empty without classes or where no row has a mate.
    With `queries` h maps the queries, and the gallery is the targets.
    """
    if classes is None:
        return {}
    rows = rows[:: math.ceil(len(rows) / RETRIEVAL_ROWS)]
    batches = [pairs.batch(part) for part in chunks(rows, EVAL_ROWS)]
    targets = torch.cat([new for _, _, new in batches])
    mapped = targets if h is None else torch.cat([h.raw(old, side)[:, : h.new_dim] for old, side, _ in batches])
    asked, gallery = (mapped, targets) if queries else (targets, mapped)
    found = evaluate(asked.cpu().numpy(), gallery.cpu().numpy(), classes[rows.cpu().numpy()], exclude_self=True)
    return {"cmc1": found.cmc[1], "cmc5": found.cmc[5], "map": found.map} if found.queries else {}


@torch.no_grad()
def uncertainty_agreement(h: ForwardTransform, pairs: Pairs, rows: Tensor) -> float:
    """Spearman's rank correlation over `rows` between s and the squared error before normalisation, in [-1, 1]."""
    said, found = [], []
    for part in chunks(rows, EVAL_ROWS):
        old, side, new = pairs.batch(part)
        out = h.raw(old, side)
        said.append(out[:, h.new_dim])
        found.append((out[:, : h.new_dim] - new).square().mean(dim=1))
    ranks = torch.stack([torch.cat(x).argsort().argsort() for x in (said, found)])
    return float(torch.corrcoef(ranks.double())[0, 1]) if len(rows) > 1 else 0.0


def _mean_target(pairs: Pairs, rows: Tensor) -> Tensor:
    sums = [pairs.batch(part)[2].double().sum(dim=0) for part in chunks(rows, EVAL_ROWS)]
    return torch.stack(sums).sum(dim=0) / len(rows)


@torch.no_grad()
def activation_maxima(h: ForwardTransform, pairs: Pairs, rows: Tensor) -> dict[str, Any]:
    """{"activation_max": {layer: [largest output per channel]}, "rows"} of the hidden layers over `rows`, for a bundle.

    Layer names are those of `TransformSpec.named_layers`; empty where there is no hidden layer.
    """
    maxima: dict[str, Tensor] = {}
    hooks = []

    def watch(name: str, layer: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            largest = output.amax(dim=0)
            maxima[name] = torch.maximum(maxima[name], largest) if name in maxima else largest

        hooks.append(layer.register_forward_hook(hook))

    for b, branch in enumerate(h.branches):
        for i, layer in enumerate(branch.children()):
            watch(f"branches.{b}.{i}", layer)
    for i, layer in enumerate(list(h.trunk)[:-1]):
        watch(f"trunk.{i}", layer)
    if not hooks:
        return {}
    for part in chunks(rows, EVAL_ROWS):
        old, side, _ = pairs.batch(part)
        h.raw(old, side)
    for handle in hooks:
        handle.remove()
    return {
        "activation_max": {name: [float(str(x)) for x in t.cpu().numpy()] for name, t in maxima.items()},
        "rows": len(rows),
    }
