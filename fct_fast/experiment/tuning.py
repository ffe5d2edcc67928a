"""The stages that choose the free numbers of the recipe, on the validation typefaces: as many trials for each control
as for h, none on a typeface or a seed that a table is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fct_fast.evaluation import evaluate
from fct_fast.experiment.maps import MapSpec, fit_stage
from fct_fast.experiment.networks import Networks
from fct_fast.experiment.recipe import ExperimentRecipe, TuningRecipe
from fct_fast.experiment.stage import Inputs, Result, Stage

__all__ = ["tuning_stages"]


def tuning_stages(recipe: ExperimentRecipe, tuning: TuningRecipe, cache_dir: Path | None = None) -> list[Stage]:
    """The last one, "judge", has the facts {"bct": [{"weight", "extended", "map", "map_new"}], "l2": likewise, "h":
    [{"lr", "map"}]}; map: new queries, old or upgraded gallery; map_new: the control as queries and gallery."""
    networks = Networks(recipe, tuning.seed, "validation", cache_dir)
    stages = [stage for stage in networks.stages() if stage.name in ("rows", "simclr", "old", "new")]
    for kind, controls in (("bct", tuning.bct), ("l2", tuning.l2)):
        for i, control in enumerate(controls):
            stages.append(networks.control(kind, control, name=f"{kind}@{i}"))
    for i, lr in enumerate(tuning.lr):
        config = recipe.base.fit.replace(seed=tuning.seed, lr=lr)
        stages.append(fit_stage(MapSpec(f"h_side@{i}", config, side="simclr")))
    tried = tuple(stage.name for stage in stages if "@" in stage.name)
    return [*stages, Stage("judge", ("rows", "old", "new", *tried), tuning.to_json(), _Judge(tuning))]


@dataclass(frozen=True)
class _Judge:
    tuning: TuningRecipe

    def __call__(self, inputs: Inputs) -> Result:
        labels, old, new = inputs["rows"]["gallery_labels"], inputs["old"]["gallery"], inputs["new"]["gallery"]

        def quality(queries: object, gallery: object) -> float:
            return evaluate(queries, gallery, labels, exclude_self=True, threads=1).map

        facts: dict[str, object] = {}
        for kind, controls in (("bct", self.tuning.bct), ("l2", self.tuning.l2)):
            found = []
            for i, control in enumerate(controls):
                own = inputs[f"{kind}@{i}"]["gallery"]
                found.append({**control.to_json(), "map": quality(own, old), "map_new": quality(own, own)})
            facts[kind] = found
        facts["h"] = [
            {"lr": lr, "map": quality(new, inputs[f"h_side@{i}"]["rows"])} for i, lr in enumerate(self.tuning.lr)
        ]
        return Result({}, facts)
