"""What an upgrade of a million items costs here, against running the new model over their pictures again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fct_fast.data.glyphs import CANVAS
from fct_fast.demo.models import build_model
from fct_fast.evaluation import cost_table
from fct_fast.experiment.recipe import ExperimentRecipe
from fct_fast.transform import ForwardTransform

__all__ = ["network_flops", "price_list"]

ROWS = 1_000_000


def price_list(recipe: ExperimentRecipe) -> dict[str, Any]:
    """`cost_table` of h with float32 side-information; a picture is CANVAS x CANVAS bytes, as the bank holds it."""
    base = recipe.base
    dim, size = base.embedding_dim, base.views.size
    spec = ForwardTransform(dim, dim, dim, base.fit.inner_dim).eval().to_spec()
    flops = network_flops(build_model(base, base.new.channels, 0), size)
    table = cost_table(spec, rows=ROWS, side_bytes=4 * dim, re_embed_flops=flops, re_embed_bytes=CANVAS * CANVAS)
    return table.to_json()


def network_flops(model: nn.Module, size: int) -> int:
    """FLOP of convolutions and linear layers for one picture [1, size, size]; a multiply and an add are two."""
    total = 0

    def count(module: nn.Module, _inputs: Any, out: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += 2 * out.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += 2 * module.weight.numel()

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    with torch.inference_mode():
        model.eval()(torch.zeros(1, 1, size, size))
    for hook in hooks:
        hook.remove()
    return total
