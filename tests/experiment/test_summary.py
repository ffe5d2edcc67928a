"""The numbers of the document: intervals as scipy gives them, rows as the stages' files give them, honest books."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from fct_fast.evaluation import evaluate
from fct_fast.experiment import Experiment
from fct_fast.experiment.summary import difference, statistic
from fct_fast.training.config import CLOSED_FORMS


def test_intervals_are_students() -> None:
    values = [0.31, 0.35, 0.29, 0.40, 0.33]
    found = statistic(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((np.mean(values), low, high))
    assert found["values"] == values


def test_differences_are_paired() -> None:
    a, b = [0.3, 0.5, 0.7], [0.2, 0.41, 0.59]
    found = difference(a, b)
    test = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((test.low, test.high))
    with pytest.raises(ValueError):
        difference(a, b[:2])


def test_a_single_seed_has_no_interval() -> None:
    assert statistic([0.4]) == {"mean": 0.4, "low": None, "high": None, "values": [0.4]}


@pytest.mark.parametrize(
    ("row", "queries", "gallery"),
    [
        ("naive", ("new", "gallery"), ("old", "gallery")),
        ("old", ("old", "gallery"), ("old", "gallery")),
        ("h_side", ("new", "gallery"), ("h_side", "rows")),
        ("ridge", ("new", "gallery"), ("ridge", "rows")),
        ("bct", ("bct", "gallery"), ("old", "gallery")),
        ("bct_new", ("bct", "gallery"), ("bct", "gallery")),
        ("query_procrustes", ("query_procrustes", "rows"), ("old", "gallery")),
        ("h_third", ("third", "gallery"), ("h_third", "rows")),
        ("chain_composed", ("third", "gallery"), ("chain", "rows")),
        ("new", ("new", "gallery"), ("new", "gallery")),
    ],
)
def test_rows_are_what_their_names_say(
    finished: Experiment, summary: dict[str, Any], row: str, queries: tuple[str, str], gallery: tuple[str, str]
) -> None:
    for seed, store in finished.stores.items():
        if isinstance(seed, int):
            labels = store.load("rows")["gallery_labels"]
            asked, stored = (store.load(stage)[array] for stage, array in (queries, gallery))
            expected = evaluate(asked, stored, labels, labels, exclude_self=True).map
            assert summary["rows"][row]["map"]["values"][seed] == expected


def test_the_best_closed_form_reads_no_side_information(summary: dict[str, Any]) -> None:
    rows = summary["rows"]
    assert summary["best"] in CLOSED_FORMS
    assert all(rows[name]["map"]["mean"] <= rows[summary["best"]]["map"]["mean"] for name in CLOSED_FORMS)


def test_gap_closed(summary: dict[str, Any]) -> None:
    rows = summary["rows"]
    assert rows["old"]["gap"]["values"] == [0.0, 0.0]
    assert rows["new"]["gap"]["values"] == [1.0, 1.0]
    old, new, upgraded = (rows[name]["map"]["values"] for name in ("old", "new", "h_side"))
    expected = [(u - o) / (n - o) for o, n, u in zip(old, new, upgraded, strict=True)]
    assert rows["h_side"]["gap"]["values"] == pytest.approx(expected)


def test_seen_and_unseen_make_up_all(summary: dict[str, Any]) -> None:
    for row in summary["rows"].values():
        assert (row["map_seen"]["mean"] + row["map_unseen"]["mean"]) / 2 == pytest.approx(row["map"]["mean"])


def test_bytes_are_those_of_the_codes(summary: dict[str, Any]) -> None:
    stored = summary["side_bytes"]
    assert [stored[name] for name in ("h", "h_side", "h_side@pca4", "h_side@binary")] == [0, 32, 16, 1]


def test_targets_of_another_scale_give_the_same_rows(summary: dict[str, Any]) -> None:
    rows = summary["rows"]
    assert rows["h_side@rescaled"]["map"]["values"] == pytest.approx(rows["h_side"]["map"]["values"], abs=0.005)


def test_curves_begin_upgraded_and_end_re_embedded(summary: dict[str, Any]) -> None:
    for gallery, orders in summary["curves"].items():
        for curve in orders.values():
            assert curve["map"][0] == pytest.approx(summary["rows"][gallery]["map"]["mean"])
            assert curve["map"][-1] == pytest.approx(summary["rows"]["new"]["map"]["mean"])
            assert curve["auc"]["map"]["mean"] == pytest.approx(np.mean(curve["map"]))
        assert orders["random"]["above_random"]["values"] == [0.0, 0.0]


def test_processor_time_is_counted_once(finished: Experiment, summary: dict[str, Any]) -> None:
    total = sum(store.load(name).seconds for store in finished.stores.values() for name in store.stages)
    assert sum(summary["processor_seconds"].values()) == pytest.approx(total)
