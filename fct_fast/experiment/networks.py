"""The stages that train a network and embed the same views with it: pairs of the training typefaces, and the gallery.

A network's stage holds "gallery" float32 [rows, dim] and, where h may be fitted from it or to it, "pairs" float32
[rows, dim]; supervised ones hold "head" float32 [classes, dim], those that others are trained from "model.<name>".
Seeds are those of the demo, so old, side-information and new model are the demo's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fct_fast.demo.data import DemoData, EvalSplit, load_data
from fct_fast.demo.models import build_model, seed_of
from fct_fast.demo.recipe import BackboneRecipe
from fct_fast.experiment.recipe import ControlRecipe, ExperimentRecipe
from fct_fast.experiment.stage import Inputs, Result, Stage, Stored
from fct_fast.models import StrideCNN
from fct_fast.models.heads import ClassifierHead
from fct_fast.training.autoencoder import clean_views, train_autoencoder
from fct_fast.training.backbone import train_backbone
from fct_fast.training.bct import ControlConfig, extended_head, train_bct, train_l2
from fct_fast.training.embed import embed_views
from fct_fast.training.simclr import train_simclr
from fct_fast.training.vicreg import train_vicreg

__all__ = ["Networks"]


class Networks:
    """The stages of one seed. cache_dir: where the drawn glyphs are kept (default: the user's cache folder)."""

    def __init__(self, recipe: ExperimentRecipe, seed: int, split: EvalSplit, cache_dir: Path | None) -> None:
        self._recipe, self._base, self._seed, self._split = recipe, recipe.base, seed, split
        self._cache_dir = cache_dir
        views = self._base.to_json()
        del views["old"], views["side"], views["new"], views["fit"]
        self._views = views  # what every network depends on

    def stages(self) -> list[Stage]:
        """The longest first, as far as their inputs allow."""
        recipe, base = self._recipe, self._base
        vicreg, autoencoder = recipe.encoders.vicreg, recipe.encoders.autoencoder
        return [
            self._stage("rows", {}, self._rows),
            self._encoder(
                "simclr",
                asdict(base.side),
                base.side.channels,
                seed_of("side", self._seed),
                lambda model, data, seed: train_simclr(model, data.old_train, base.side.training, seed=seed),
            ),
            self._encoder(
                "autoencoder",
                asdict(autoencoder),
                autoencoder.channels,
                self._other_seed(6),
                lambda model, data, seed: (
                    train_autoencoder(
                        model, data.old_train, autoencoder.training, seed=seed, targets=clean_views(data.old_train)
                    ).losses
                ),
            ),
            self._encoder(
                "vicreg",
                asdict(vicreg),
                vicreg.channels,
                self._other_seed(5),
                lambda model, data, seed: train_vicreg(model, data.old_train, vicreg.training, seed=seed),
            ),
            self._backbone("old", base.old, seed_of("old", self._seed), known_only=True),
            self._backbone("new", base.new, seed_of("new", self._seed)),
            self._backbone("third", recipe.third, self._other_seed(9)),
            self._backbone("supervised", recipe.encoders.supervised, self._other_seed(7), known_only=True),
            self._backbone(
                "wide", recipe.wide.model, self._other_seed(8), known_only=True, width=recipe.wide.embedding_dim
            ),
            self.control("bct", recipe.bct),
            self.control("l2", recipe.l2),
        ]

    def _other_seed(self, place: int) -> int:
        return 10 * self._seed + place  # the demo's own seeds take the places below 5

    def _data(self) -> DemoData:
        return load_data(self._base, seed=self._seed, split=self._split, cache_dir=self._cache_dir)

    def _stage(
        self, name: str, options: dict[str, Any], run: Callable[[Inputs], Result], inputs: tuple[str, ...] = ()
    ) -> Stage:
        return Stage(name, inputs, {"views": self._views, **options}, run)

    def _rows(self, _: Inputs) -> Result:
        """What every row of pairs and gallery is: int64 [rows] each."""
        data = self._data()
        arrays = {}
        for name, views, copies in (
            ("pair", data.train, self._base.pair_views),
            ("gallery", data.gallery, self._base.gallery_views),
        ):
            arrays[f"{name}_labels"] = np.tile(views.labels, copies)
            arrays[f"{name}_items"] = np.tile(np.arange(len(views), dtype=np.int64), copies)
        return Result(arrays, {"source": data.source, "names": list(data.names)})

    def _encoder(
        self,
        name: str,
        options: dict[str, Any],
        channels: int,
        seed: int,
        train: Callable[[StrideCNN, DemoData, int], list[float]],
    ) -> Stage:
        def run(_: Inputs) -> Result:
            data = self._data()
            model = build_model(self._base, channels, seed)
            losses = train(model, data, seed)
            return self._embedded(model, data, losses)

        return self._stage(name, options, run)

    def _backbone(
        self, name: str, part: BackboneRecipe, seed: int, *, known_only: bool = False, width: int | None = None
    ) -> Stage:
        def run(_: Inputs) -> Result:
            data = self._data()
            model = build_model(self._base, part.channels, seed, width)
            views = data.old_train if known_only else data.train
            trained = train_backbone(model, views, part.training, seed=seed)
            result = self._embedded(model, data, trained.losses)
            arrays = {**result.arrays, "head": trained.classifier.linear.weight.detach().numpy()}
            if name == "old":
                arrays |= {f"model.{key}": value.numpy() for key, value in model.state_dict().items()}
            return Result(arrays, result.facts)

        return self._stage(name, {**asdict(part), "width": width}, run)

    def control(self, kind: str, control: ControlRecipe, name: str | None = None) -> Stage:
        """A new model that is trained to fit the old gallery, by "bct" or "l2": on the new model's data, with its
        steps, batches and first weights."""
        part = self._base.new

        def run(inputs: Inputs) -> Result:
            data, seed = self._data(), seed_of("new", self._seed)
            model = build_model(self._base, part.channels, seed)
            config = ControlConfig(**asdict(part.training), weight=control.weight)
            old, head = self._old(inputs["old"])
            if kind == "l2":
                losses = train_l2(model, data.train, config, old_model=old, seed=seed).losses
            else:
                if control.extended:
                    head = extended_head(head, old, data.train, seed=seed)
                losses = train_bct(model, data.train, config, old_head=head, seed=seed).losses
            return self._embedded(model, data, losses, pairs=False)

        return self._stage(name or kind, {**asdict(part), "control": control.to_json()}, run, ("old",))

    def _old(self, stored: Stored) -> tuple[StrideCNN, ClassifierHead]:
        model = build_model(self._base, self._base.old.channels, seed_of("old", self._seed))
        names = [name.removeprefix("model.") for name in stored.names if name.startswith("model.")]
        model.load_state_dict({name: torch.from_numpy(stored[f"model.{name}"].copy()) for name in names})
        weight = torch.from_numpy(stored["head"].copy())
        head = ClassifierHead(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            head.linear.weight.copy_(weight)
        return model.eval(), head

    def _embedded(self, model: StrideCNN, data: DemoData, losses: list[float], *, pairs: bool = True) -> Result:
        drawn = {"gallery": (data.gallery, self._base.gallery_views)}
        if pairs:
            drawn["pairs"] = (data.train, self._base.pair_views)
        arrays = {
            name: embed_views({"it": model}, views, copies=copies, seed=seed_of(name, self._seed)).embeddings["it"]
            for name, (views, copies) in drawn.items()
        }
        parameters = sum(p.numel() for p in model.parameters())
        return Result(arrays, {"loss": losses[-1], "parameters": parameters})
