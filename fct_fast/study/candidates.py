"""The maps that a study compares: h, what it must beat, and maps of queries that leave the gallery as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fct_fast.study.config import StudyConfig
from fct_fast.training import FitResult, fit
from fct_fast.training.config import FitMethod, LossConfig

__all__ = ["Candidate", "candidates", "fit_candidate"]

Input = Literal["old", "side", "new"]


@dataclass(frozen=True)
class Candidate:
    """name: as a table shows it. reads: the stored vectors that the map is given; ("new",) is a map of queries, new ->
    old, and ("new", "old") one that is mixed with the old model's own query. about: what the row says."""

    name: str
    method: FitMethod
    reads: tuple[Input, ...]
    about: str

    @property
    def maps_queries(self) -> bool:
        return self.reads[0] == "new"


def candidates(side: bool, config: StudyConfig) -> list[Candidate]:
    """All that apply, closed forms first; the last one of those that map the gallery is h with all there is."""
    method = config.fit.method
    found = [
        Candidate("procrustes", "procrustes", ("old",), "a rotation of old"),
        Candidate("procrustes, centred", "procrustes_centred", ("old",), "a rotation about the means"),
        Candidate("procrustes, whitened", "procrustes_whitened", ("old",), "a rotation of whitened rows"),
        Candidate("low rank", "low_rank", ("old",), "a linear map through a bottleneck"),
        Candidate("affine", "affine", ("old",), "least squares"),
        Candidate("ridge", "ridge", ("old",), "a regularised linear map"),
    ]
    if side:
        found += [
            Candidate("procrustes, whitened + side", "procrustes_whitened", ("old", "side"), "with side-information"),
            Candidate("low rank + side", "low_rank", ("old", "side"), "with side-information"),
            Candidate("ridge + side", "ridge", ("old", "side"), "with side-information"),
            Candidate("ridge, side alone", "ridge", ("side",), "control: without the old embedding"),
        ]
    if config.maps == "all":
        found += [Candidate("residual", "residual", ("old",), "a linear map with a small network beside it")]
        if side:
            found += [
                Candidate("residual + side", "residual", ("old", "side"), "with side-information"),
                Candidate("h, side alone", method, ("side",), "control: without the old embedding"),
                Candidate("h, old alone", method, ("old",), "control: without side-information"),
            ]
    found += [
        Candidate("queries by procrustes", "procrustes", ("new",), "the gallery stays; queries are mapped, new to old"),
        Candidate("queries by ridge", "ridge", ("new",), "the same by a linear map"),
        Candidate("queries by both models", "procrustes", ("new", "old"), "the first, mixed with the old query"),
    ]
    inputs: tuple[Input, ...] = ("old", "side") if side else ("old",)
    return [*found, Candidate("h", method, inputs, "Forward Compatible Training")]


def fit_candidate(
    candidate: Candidate, arrays: dict[str, Any], marks: dict[str, Any], config: StudyConfig, **options: Any
) -> FitResult:
    """Fit it on rows of arrays "old", "side" and "new" [n, dim] or [views, n, dim]; marks: "labels" and "groups" [n].

    options: `classifier`, `checkpoint` and the like, for h alone.
    """
    choice = config.fit.replace(method=candidate.method, baseline=False)
    if candidate.name != "h":  # the others have no classifier, and no use for a predicted uncertainty
        choice = choice.replace(loss=LossConfig(similarity=choice.loss.similarity, temperature=choice.loss.temperature))
    if candidate.maps_queries:
        choice = choice.replace(direction="query", interpolation="auto" if "old" in candidate.reads else None)
        return fit(old=arrays["old"], new=arrays["new"], config=choice, **marks, **options)
    first, *rest = candidate.reads
    side = arrays[rest[0]] if rest else None
    return fit(old=arrays[first], side=side, new=arrays["new"], config=choice, **marks, **options)
