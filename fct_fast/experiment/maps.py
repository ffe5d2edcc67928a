"""The stages that fit a map on the pairs and upgrade the gallery with it, one a row of the tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fct_fast.experiment.recipe import ExperimentRecipe
from fct_fast.experiment.stage import Inputs, Result, Stage
from fct_fast.side import fit_codec
from fct_fast.training.config import CLOSED_FORMS, FitConfig, LossConfig
from fct_fast.training.fit import FitResult, fit
from fct_fast.training.maps import fit_interpolation
from fct_fast.training.pairs import Pairs, class_codes, split_rows
from fct_fast.upgrader import Upgrader

__all__ = ["ENCODERS", "LOSSES", "MapSpec", "fit_stage", "map_specs", "map_stages"]

F32 = npt.NDArray[np.float32]

ENCODERS = ("vicreg", "autoencoder", "supervised")
"""Side-information besides SimCLR."""

LOSSES: dict[str, tuple[str, LossConfig]] = {
    "h_side_disc": ("MSE + discriminative", LossConfig(discriminative=1.0)),
    "h_side_fastfill": (
        "MSE + discriminative + uncertainty (FastFill)",
        LossConfig(discriminative=1.0, uncertainty=True),
    ),
    "h_side_uncertainty": ("MSE + uncertainty", LossConfig(uncertainty=True)),
    "h_side_l1": ("L1", LossConfig(similarity="l1")),
    "h_side_cosine": ("cosine", LossConfig(similarity="cosine")),
    "h_side_infonce": ("InfoNCE", LossConfig(similarity="infonce")),
}
"""Row -> (its loss in words, its loss); "h_side" is MSE."""


@dataclass(frozen=True)
class MapSpec:
    """One fit. old, side, new: names of network stages; config: of `fit`; codec: of the side-information; count: fit on
    so many pairs, drawn at random; scale: of the targets, "raw", "unit" (norm) or a factor."""

    name: str
    config: FitConfig
    old: str = "old"
    side: str | None = None
    new: str = "new"
    codec: str | None = None
    count: int | None = None
    scale: str | float = "raw"

    @property
    def inputs(self) -> tuple[str, ...]:
        named = ("rows", self.old, self.side, self.new)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def options(self) -> dict[str, Any]:
        given = {"old": self.old, "side": self.side, "new": self.new, "codec": self.codec}
        return given | {"count": self.count, "scale": self.scale, "config": self.config.to_json()}


def map_specs(recipe: ExperimentRecipe, seed: int) -> list[MapSpec]:
    """Every fit of one seed but the interpolation and the chain. The long ones first."""
    config = recipe.base.fit.replace(seed=seed)
    closed = [config.replace(method=method) for method in CLOSED_FORMS]
    specs = [
        MapSpec("h_side", config, side="simclr"),
        MapSpec("h", config),
        MapSpec("h_twice", config, side="old"),
        MapSpec("side", config, old="simclr"),
        MapSpec("residual", config.replace(method="residual")),
        MapSpec("residual_side", config.replace(method="residual"), side="simclr"),
        MapSpec("h_wide", config, old="wide"),
        MapSpec("h_third", config, side="simclr", new="third"),
    ]
    for name, (_, loss) in LOSSES.items():
        specs.append(MapSpec(name, config.replace(loss=_weighed(loss, recipe)), side="simclr"))
    fastfill = _weighed(LOSSES["h_side_fastfill"][1], recipe)
    specs.append(MapSpec("h_fastfill", config.replace(loss=fastfill)))
    specs += [MapSpec(f"h_{encoder}", config, side=encoder) for encoder in ENCODERS]
    specs += [MapSpec(f"h_side@{codec}", config, side="simclr", codec=codec) for codec in recipe.codecs]
    for count in recipe.learning:
        specs.append(MapSpec(f"h_side@{count}", config, side="simclr", count=count))
        specs.append(MapSpec(f"ridge_side@{count}", config.replace(method="ridge"), side="simclr", count=count))
    specs += [
        MapSpec("h_side@unit", config, side="simclr", scale="unit"),
        MapSpec("h_side@rescaled", config, side="simclr", scale=recipe.rescale),
    ]
    specs += [MapSpec(c.method, c) for c in closed]
    specs += [MapSpec(f"{c.method}_side", c, side="simclr") for c in closed]
    specs += [
        MapSpec(f"query_{method}", config.replace(method=method, direction="query"))
        for method in ("procrustes", "ridge")
    ]
    return specs


def map_stages(recipe: ExperimentRecipe, seed: int) -> list[Stage]:
    """A stage has "rows" float32 [gallery rows, dim], the upgraded gallery (of a query map: the mapped queries), and
    with an uncertainty "s" float32 [gallery rows]."""
    stages = [fit_stage(spec) for spec in map_specs(recipe, seed)]
    config = recipe.base.fit.replace(seed=seed)
    query = config.replace(method="procrustes", direction="query")
    chain_inputs = ("rows", "new", "simclr", "third", "h_side")
    return [
        *stages,
        Stage("chain", chain_inputs, {"config": config.to_json()}, _Chain(config)),
        Stage("query_interpolation", ("rows", "old", "new"), {"config": query.to_json()}, _Interpolation(query)),
    ]


def fit_stage(spec: MapSpec) -> Stage:
    return Stage(spec.name, spec.inputs, spec.options(), _Fit(spec))


@dataclass(frozen=True)
class _Fit:
    spec: MapSpec

    def __call__(self, inputs: Inputs) -> Result:
        spec, rows, config = self.spec, inputs["rows"], self.spec.config
        old, new = inputs[spec.old]["pairs"], _scaled(inputs[spec.new]["pairs"], spec.scale)
        side = None if spec.side is None else inputs[spec.side]["pairs"]
        gallery_old = inputs[spec.old]["gallery"]
        gallery_side = None if spec.side is None else inputs[spec.side]["gallery"]
        items, labels = rows["pair_items"], rows["pair_labels"]
        if spec.count is not None and spec.count < len(old):
            config = _as_long(config, len(old), spec.count)
            drawn = np.sort(np.random.default_rng(config.seed).permutation(len(old))[: spec.count])
            old, new, items, labels = old[drawn], new[drawn], items[drawn], labels[drawn]
            side = None if side is None else side[drawn]
        side_bytes = 0 if side is None else 4 * side.shape[1]
        if spec.codec is not None:
            assert side is not None
            assert gallery_side is not None
            codec = fit_codec(spec.codec, side, seed=config.seed)
            side, gallery_side = (codec.decode(codec.encode(x)) for x in (side, gallery_side))
            side_bytes = codec.bytes_per_item
        classifier = labelled = None
        if config.loss.discriminative:
            classifier, labelled = torch.from_numpy(inputs[spec.new]["head"].copy()), labels
        done = fit(old=old, side=side, new=new, labels=labelled, groups=items, classifier=classifier, config=config)
        if config.direction == "query":
            return _result(done, inputs[spec.new]["gallery"], None, 0)
        return _result(done, gallery_old, gallery_side, side_bytes)


@dataclass(frozen=True)
class _Chain:
    """A second upgrade, new -> third, of the gallery that the first one made; side-information is that of the first.

    Stored rows have norm 1, so that is what it is fitted on. "rows": from the upgraded gallery; "true": from the
    re-embedded one.
    """

    config: FitConfig

    def __call__(self, inputs: Inputs) -> Result:
        side = inputs["simclr"]
        done = fit(
            old=_scaled(inputs["new"]["pairs"], "unit"),
            side=side["pairs"],
            new=inputs["third"]["pairs"],
            groups=inputs["rows"]["pair_items"],
            config=self.config,
        )
        composed = _result(done, inputs["h_side"]["rows"], side["gallery"], 4 * side["gallery"].shape[1])
        true = _result(done, _scaled(inputs["new"]["gallery"], "unit"), side["gallery"], 0)
        return Result({"rows": composed.arrays["rows"], "true": true.arrays["rows"]}, composed.facts)


@dataclass(frozen=True)
class _Interpolation:
    """Queries between the old model's and the mapped new model's; how far is chosen on the held-out pairs."""

    config: FitConfig

    def __call__(self, inputs: Inputs) -> Result:
        old, new, rows = inputs["old"], inputs["new"], inputs["rows"]
        items, classes = rows["pair_items"], class_codes("labels", rows["pair_labels"], len(rows["pair_labels"]))
        mapped = fit(old=old["pairs"], new=new["pairs"], groups=items, config=self.config)
        pairs = Pairs.of(new["pairs"], None, old["pairs"], torch.device("cpu"))
        rng = np.random.default_rng(self.config.seed)
        split = split_rows(pairs.rows, self.config.held_out, rng, None, items)
        train, held = (torch.from_numpy(x) for x in split)
        spec, chosen = fit_interpolation(mapped.transform.to_spec(), pairs, train, held, classes=classes)
        queries = Upgrader(spec, threads=1)(new["gallery"], old["gallery"])
        return Result({"rows": queries}, {"share": chosen["share"]})


def _result(done: FitResult, old: F32, side: F32 | None, side_bytes: int) -> Result:
    spec = done.transform.to_spec()
    up = Upgrader(spec, threads=1)
    arrays: dict[str, F32] = {}
    if spec.uncertainty:
        arrays["rows"], arrays["s"] = up(old, side, return_uncertainty=True)
    else:
        arrays["rows"] = up(old, side)
    facts: dict[str, Any] = {"pairs": done.pairs, "side_bytes": side_bytes, "flops": spec.flops_per_row}
    facts |= {name: value for name, value in done.metrics.items() if name in ("held_out", "strength", "rank")}
    return Result(arrays, facts)


def _weighed(loss: LossConfig, recipe: ExperimentRecipe) -> LossConfig:
    """With the weight and the temperature of the recipe."""
    weight = recipe.losses.discriminative if loss.discriminative else 0.0
    return loss.replace(discriminative=weight, temperature=recipe.losses.temperature)


def _as_long(config: FitConfig, total: int, count: int) -> FitConfig:
    """More epochs over fewer pairs, so that every fit of a learning curve sees as many rows."""
    times = max(1, round(total / count))
    return config.replace(epochs=config.epochs * times, warmup_epochs=config.warmup_epochs * times)


def _scaled(rows: F32, scale: str | float) -> F32:
    if scale == "raw":
        return rows
    if scale == "unit":
        norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        return (rows / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    return (rows * np.float32(scale)).astype(np.float32)
