"""A study judges on rows that nothing was fitted or chosen on, and its verdict is right where the truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from fct_fast.errors import ConfigError, ShapeError
from fct_fast.study import Study, StudyConfig, run_study
from fct_fast.training import FitConfig
from fct_fast.training.config import LossConfig

FIT = FitConfig(inner_dim=64, epochs=8, batch_size=128, lr=4e-3, warmup_epochs=1, device="cpu", held_out=0.15)
CONFIG = StudyConfig(fit=FIT, shares=(0.5, 1.0))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def world(n: int = 1500, *, noise: dict[str, float] | None = None) -> dict[str, np.ndarray]:
    """Classes in twelve hidden factors: old sees eight, side the other ones, new all, each with its own noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(30, size=n)
    z = rng.normal(size=(30, 12))[labels] + 0.45 * rng.normal(size=(n, 12))
    sees = {"old": np.arange(12) < 8, "side": np.arange(12) > 5, "new": np.ones(12, bool)}
    dims = {"old": 24, "side": 16, "new": 20}
    out = {"labels": labels}
    for name, seen in sees.items():
        hidden = np.tanh(z * seen @ rng.normal(size=(12, 48)) / 2)
        rows = hidden @ rng.normal(size=(48, dims[name])) / 7
        spread = (noise or {}).get(name, 0.05)
        out[name] = (rows + spread * rng.normal(size=rows.shape)).astype(np.float32)
    return out


def study(data: dict[str, np.ndarray], config: StudyConfig = CONFIG, **options) -> Study:
    return run_study(**{name: x for name, x in data.items() if x is not None}, config=config, **options)


@pytest.fixture(scope="module")
def found(one_thread: None) -> Study:
    return study(world())


def test_an_upgrade_that_is_worth_it_is_said_to_be(found: Study):
    assert found.verdict.decision in ("upgrade", "upgrade and re-embed")
    assert found.against["new"].low > 0
    assert found.against[found.best].low > 0
    assert found.rows["ridge + side"].mean > found.rows["ridge"].mean > found.rows["ridge, side alone"].mean - 1
    assert found.measure == "mAP"
    assert found.test_rows + found.train_rows == 1500


def test_rows_are_judged_as_scikit_learn_does(found: Study):
    """`new` on the test rows, by hand: split and judgement are what they are said to be."""
    from fct_fast.study.pairs import StudyPairs

    data = world()
    pairs = StudyPairs({k: data[k] for k in ("old", "side", "new")}, {"labels": data["labels"]}, CONFIG)
    assert not np.intersect1d(pairs.train, pairs.test).size
    rows, labels = pairs.tested["new"].astype(np.float64), data["labels"][pairs.test]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    precision = []
    for i in range(len(rows)):
        others = np.arange(len(rows)) != i
        positive = labels[others] == labels[i]
        if positive.any():
            precision.append(average_precision_score(positive, rows[others] @ rows[i]))
    np.testing.assert_allclose(found.rows["new"].values, precision, atol=1e-6)


def test_test_rows_are_seen_by_no_fit(found: Study):
    """Rubbish in the test rows' new embeddings changes no map, and not which one is best."""
    from fct_fast.study.pairs import StudyPairs

    data = world()
    pairs = StudyPairs({k: data[k] for k in ("old", "side", "new")}, {"labels": data["labels"]}, CONFIG)
    spoilt = dict(data, new=data["new"].copy())
    spoilt["new"][pairs.test] = np.random.default_rng(5).normal(size=(len(pairs.test), 20))
    other = study(spoilt)
    assert other.best == found.best
    assert other.fit.transform.to_spec() == found.fit.transform.to_spec()
    assert other.verdict.decision == "do not upgrade"  # for the new model now looks like noise


def test_a_worse_new_model_is_no_upgrade():
    told = study(world(noise={"new": 1.0}), CONFIG.replace(maps="closed"))
    assert told.verdict.decision == "do not upgrade"
    assert "worse than the old one" in told.verdict.sentence


def test_a_map_that_loses_what_the_old_gallery_had_is_no_upgrade():
    """The old model has the classes on a circle, the new one, better, in as many directions as there are classes: no
    linear map of two values gets there."""
    rng = np.random.default_rng(1)
    labels = rng.integers(30, size=1500)
    angle = 2 * np.pi * labels / 30 + 0.05 * rng.normal(size=1500)
    old = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    new = (rng.normal(size=(30, 40))[labels] + 0.1 * rng.normal(size=(1500, 40))).astype(np.float32)
    linear = CONFIG.replace(fit=FIT.replace(method="ridge"), maps="closed")
    told = study({"old": old, "new": new, "labels": labels}, linear)
    assert told.against["new"].low > 0
    assert told.verdict.decision == "do not upgrade"
    assert "does not beat the gallery as it stands" in told.verdict.sentence


def test_without_labels_neighbours_are_judged(found: Study):
    data = world()
    told = study({name: data[name] for name in ("old", "side", "new")}, CONFIG.replace(maps="closed", k=5))
    assert told.measure == "overlap@5"
    assert told.rows["new"].mean == 1
    assert "Without labels" in told.verdict.notes[0]
    assert told.flips is None
    assert told.shift is None
    assert told.mixtures[0].values[-1] == 1


def test_a_mixture_starts_as_the_map_and_ends_as_the_new_model(found: Study):
    for curve in found.mixtures:
        assert curve.values[0] == pytest.approx(found.rows[found.best].mean, abs=1e-9)
        assert curve.values[-1] == pytest.approx(found.rows["new"].mean, abs=1e-9)
        assert len(curve.values) == 22


def test_groups_stay_on_one_side():
    data = world()
    groups = np.arange(1500) // 3
    from fct_fast.study.pairs import StudyPairs

    pairs = StudyPairs({"old": data["old"], "new": data["new"]}, {"groups": groups}, CONFIG)
    assert pairs.split == "whole groups"
    assert not np.intersect1d(groups[pairs.train], groups[pairs.test]).size
    few = StudyPairs({"old": data["old"], "new": data["new"]}, {"labels": groups}, CONFIG)
    assert few.split == "whole classes"


def test_the_uncertainty_head_orders_the_re_embedding():
    data = world()
    config = CONFIG.replace(fit=FIT.replace(loss=LossConfig(uncertainty=True)), shares=(1.0,))
    told = study(data, config)
    assert told.mixtures[0].order == ("uncertainty" if told.best == "h" else "disagreement with the linear map")


def test_it_is_all_plain_json(found: Study):
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["verdict"]["sentence"] == found.verdict.sentence
    assert set(document["rows"]) == set(found.rows)


def test_what_cannot_be_judged_is_refused():
    data = world(200)
    with pytest.raises(ShapeError, match="labels has 199"):
        study(dict(data, labels=data["labels"][:-1]))
    with pytest.raises(ConfigError, match="too few to judge by"):
        study(dict(data, labels=np.arange(200)))
    with pytest.raises(ConfigError, match="held_out"):
        study(data, CONFIG.replace(fit=FIT.replace(held_out=0.0)))
