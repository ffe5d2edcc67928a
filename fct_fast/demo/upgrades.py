"""The demo's forward transformations: h with side-information, and the controls that it is judged against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fct_fast.demo.recipe import Recipe
from fct_fast.training.embed import EmbeddedViews
from fct_fast.training.fit import FitResult, fit

__all__ = ["INPUTS", "fit_all", "inputs_of"]

INPUTS: dict[str, tuple[str, ...]] = {
    "linear": ("old",),
    "linear_side": ("old", "side"),
    "side": ("side",),
    "h": ("old",),
    "h_side": ("old", "side"),
}
"""Row of the table -> the stored vectors that its transformation reads. "linear..." are ridge maps, the others MLPs."""


def fit_all(
    pairs: EmbeddedViews, recipe: Recipe, *, seed: int, on_stage: Callable[[str], Callable[[int, int], None]]
) -> dict[str, FitResult]:
    """One fit a row of INPUTS, on the same pairs. Held-out rows are whole items, so that no view of them was seen."""
    fits = {}
    for name in INPUTS:
        on_step = on_stage(f"fit {name}")
        config = recipe.fit.replace(seed=seed, method="ridge" if name.startswith("linear") else "fct")
        old, side = inputs_of(name, pairs.embeddings)
        fits[name] = fit(
            old=old,
            side=side,
            new=pairs.embeddings["new"],
            groups=pairs.items,
            config=config,
            on_epoch=_after_epoch(on_step, config.epochs),
        )
        on_step(1, 1)
    return fits


def inputs_of(name: str, stored: dict[str, Any]) -> tuple[Any, Any]:
    """What the transformation of a row is given as (old, side). Side-information alone stands in the place of old."""
    first, *rest = INPUTS[name]
    return stored[first], stored[rest[0]] if rest else None


def _after_epoch(on_step: Callable[[int, int], None], epochs: int) -> Callable[[int, float], None]:
    return lambda epoch, _loss: on_step(epoch + 1, epochs)
