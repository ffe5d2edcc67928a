"""`run_study`: from paired arrays to a table of maps on rows that none of them saw, and a verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fct_fast.errors import ConfigError
from fct_fast.evaluation.cost import cost_table
from fct_fast.evaluation.flips import flips
from fct_fast.evaluation.threshold import threshold_shift
from fct_fast.study.candidates import Candidate, candidates
from fct_fast.study.config import StudyConfig
from fct_fast.study.judge import Judged, TestRows
from fct_fast.study.mixture import Mixture, chosen_order, mixtures, orders, share_needed
from fct_fast.study.pairs import Array, StudyPairs
from fct_fast.study.result import LearningPoint, Study
from fct_fast.study.verdict import Facts, decide
from fct_fast.training import FitResult
from fct_fast.training.config import TRAINED

__all__ = ["OnStage", "run_study"]

OnStage = Callable[[str, int, int], None]
"""Called as on_stage(what begins, stages done, stages in all)."""

FPR = 1e-3  # false-positive rate of the threshold that is followed
COST_ROWS = 1_000_000
MIN_PAIRS = 64  # of a point of the learning curve


def run_study(
    *,
    old: Any,
    new: Any,
    side: Any = None,
    labels: Any = None,
    groups: Any = None,
    classifier: object = None,
    config: StudyConfig | None = None,
    on_stage: OnStage | None = None,
    **options: Any,
) -> Study:
    """Judge an upgrade on pairs: old [n, old_dim], side [n, side_dim], new [n, new_dim] (or views of them, as `fit`
    takes them), numpy or torch.

    A share of the rows is set aside for judging; every candidate is fitted on the others, of which a share is held out
    in turn for the choices that are made (strengths, the best candidate). labels [n]: retrieval is judged by the mean
    average precision of the new model's queries; without them by the neighbours of the new space that are kept.
    groups [n]: rows of one group stay on one side, and are drawn together in the intervals. classifier and options
    (`checkpoint`, `log_dir`, ...) go to the fit of h. Raises what `fit` raises, and ConfigError for too few test rows.
    """
    config = config or StudyConfig()
    if config.fit.held_out == 0:
        raise ConfigError("a study chooses on rows that are held out of the fits; set held_out above 0")
    pairs = StudyPairs({"old": old, "side": side, "new": new}, {"labels": labels, "groups": groups}, config)
    judge = TestRows(pairs.tested["new"], pairs.mark("labels"), pairs.mark("groups"), config.k, config.level)
    study = _Running(pairs, judge, config, candidates(side is not None, config), on_stage)
    study.fit_all({"classifier": classifier, **options})
    learning = study.learning_curve()
    curves = study.mixtures()
    return study.finish(learning, curves)


class _Running:
    """A study as it goes: what was fitted so far, and how it was judged."""

    def __init__(
        self,
        pairs: StudyPairs,
        judge: TestRows,
        config: StudyConfig,
        chosen: list[Candidate],
        on_stage: OnStage | None,
    ) -> None:
        self._pairs, self._judge, self._config, self._chosen = pairs, judge, config, chosen
        self._on_stage, self._done = on_stage, 0
        self._fits: dict[str, FitResult] = {}
        self._mapped: dict[str, Array] = {}
        self._rows: dict[str, Judged] = {}
        self._seconds: dict[str, float] = {}

    def fit_all(self, options: dict[str, Any]) -> None:
        """Fit and judge every candidate; options are for h alone."""
        judge, old = self._judge, self._pairs.tested["old"]
        self._rows["old"] = judge.judge("old", "old queries, old gallery: the status quo", old, old)
        if old.shape[1] == judge.new.shape[1]:
            self._rows["naive"] = judge.judge("naive", "new queries, old gallery", judge.new, old)
        for candidate in self._chosen:
            name = candidate.name
            self._begin(f"fit {name}")
            start = time.perf_counter()
            fitted = self._pairs.fit(candidate, self._pairs.train, **(options if name == "h" else {}))
            self._seconds[name] = time.perf_counter() - start
            mapped = self._pairs.map(fitted, candidate)
            queries, gallery = (mapped, old) if candidate.maps_queries else (judge.new, mapped)
            self._rows[name] = judge.judge(name, candidate.about, queries, gallery)
            self._fits[name], self._mapped[name] = fitted, mapped
        self._rows["new"] = judge.judge("new", "everything re-embedded: the ceiling", judge.new, judge.new)

    @property
    def best(self) -> Candidate:
        """The map of galleries that did best on the rows held out for choices, never on the test rows."""
        return max(self._usable, key=self._merit)

    @property
    def simpler(self) -> Candidate:
        """The same among the closed forms."""
        return max((c for c in self._usable if c.method not in TRAINED), key=self._merit)

    @property
    def _usable(self) -> list[Candidate]:
        """Maps of galleries that are no controls."""
        return [c for c in self._chosen if "old" in c.reads and not c.maps_queries]

    def learning_curve(self) -> list[LearningPoint]:
        """The best map and the best closed form on parts of the training rows, each within the next one."""
        self._begin("learning curve")
        config, train = self._config, self._pairs.train
        # The classifier is h's alone, and the curve is about pairs.
        plain = config.replace(fit=config.fit.replace(loss=config.fit.loss.replace(discriminative=0.0)))
        order = np.random.default_rng([config.fit.seed, 2]).permutation(train)
        points = []
        for share in sorted({share for share in config.shares if share * len(train) >= MIN_PAIRS}):
            part, means = np.sort(order[: round(share * len(train))]), {}
            for candidate in dict.fromkeys((self.simpler, self.best)):
                if share == 1:
                    means[candidate.name] = self._rows[candidate.name].mean
                    continue
                gallery = self._pairs.map(self._pairs.fit(candidate, part, plain), candidate)
                means[candidate.name] = self._judge.judge(candidate.name, "", self._judge.new, gallery).mean
            points.append(LearningPoint(len(part), means))
        return points

    def mixtures(self) -> list[Mixture]:
        """The best map with a part of the rows re-embedded, in several orders."""
        self._begin("partial re-embedding")
        best, simpler = self.best, self.simpler
        s = self._pairs.uncertainty(self._fits[best.name], best)
        linear = None if simpler == best else self._mapped[simpler.name]
        upgraded = self._mapped[best.name]
        return mixtures(self._judge, upgraded, orders(upgraded, linear, s, self._config.fit.seed))

    def finish(self, learning: list[LearningPoint], curves: list[Mixture]) -> Study:
        """The verdict, and all that it rests on."""
        self._begin("verdict")
        judge, config, rows, best, simpler = self._judge, self._config, self._rows, self.best, self.simpler
        against = {name: judge.difference(row, rows["old"]) for name, row in rows.items() if name != "old"}
        labels = judge.labels is not None
        target = config.target or (0.9 if labels else 0.5)
        start, goal, curve = rows["old"].mean, rows["new"].mean, chosen_order(curves)
        facts = Facts(
            measure="mAP" if labels else f"overlap@{judge.k}",
            old=start,
            new=goal,
            upgraded=rows[best.name].mean,
            new_gain=against["new"],
            upgrade_gain=against[best.name],
            best=best.name,
            simpler=simpler.name,
            lead=None if best.method not in TRAINED else judge.difference(rows[best.name], rows[simpler.name]),
            target=target,
            share=share_needed(curve, start + target * (goal - start)),
            order=curve.order,
            dip=max(0.0, rows[best.name].mean - float(curve.values.min())),
            steps=self._steps(),
            labels=labels,
        )
        before, after = rows["old"].evaluation, rows[best.name].evaluation
        spec, tested = self._fits[best.name].transform.to_spec(), self._pairs.tested
        return Study(
            config=config,
            measure=facts.measure,
            train_rows=len(self._pairs.train),
            test_rows=len(self._pairs.test),
            queries=int(judge.ranked.sum()),
            split=self._pairs.split,
            rows=rows,
            against=against,
            best=best.name,
            facts=facts,
            verdict=decide(facts),
            learning=learning,
            mixtures=curves,
            cost=cost_table(
                spec,
                rows=COST_ROWS,
                side_bytes=4 * spec.side_dim,
                re_embed_flops=config.re_embed_flops,
                re_embed_bytes=config.re_embed_bytes,
            ),
            flips=None if before is None or after is None else flips(before, after),
            shift=threshold_shift(
                (tested["old"], tested["old"]),
                (judge.new, self._mapped[best.name]),
                judge.labels,
                fpr=FPR,
                exclude_self=True,
                seed=config.fit.seed,
            )
            if labels
            else None,
            fits=self._fits,
            seconds=self._seconds,
        )

    def _steps(self) -> int | None:
        """Of Adam that h had, where it is trained."""
        fit = self._config.fit
        if fit.method not in TRAINED:
            return None
        rows: int = self._fits["h"].metrics["train_rows"]
        return fit.epochs * max(1, round(rows / fit.batch_size / fit.accumulate))

    def _merit(self, candidate: Candidate) -> float:
        held = self._fits[candidate.name].metrics["held_out"]
        return float(held["map"] if self._judge.labels is not None and "map" in held else held["cosine"])

    def _begin(self, what: str) -> None:
        if self._on_stage is not None:
            self._on_stage(what, self._done, len(self._chosen) + 3)
        self._done += 1
