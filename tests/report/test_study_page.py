"""The page of a study says its verdict and its table, loads nothing and escapes everything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from html_support import Page

from fct_fast.report.study import study_page
from fct_fast.study import Study, StudyConfig, run_study
from fct_fast.training import FitConfig

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def studies() -> dict[str, Study]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    labels = rng.integers(20, size=800)
    z = rng.normal(size=(20, 10))[labels] + 0.4 * rng.normal(size=(800, 10))
    arrays = {"old": z[:, :6], "side": z[:, 5:], "new": z @ rng.normal(size=(10, 12))}
    arrays = {name: x.astype(np.float32) for name, x in arrays.items()}
    fit = FitConfig(inner_dim=32, epochs=2, batch_size=128, lr=4e-3, warmup_epochs=1, device="cpu")
    config = StudyConfig(fit=fit, maps="closed", shares=(0.5, 1.0), re_embed_flops=10**9, re_embed_bytes=10**5)
    found = {"labels": run_study(**arrays, labels=labels, config=config), "plain": run_study(**arrays, config=config)}
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("kind", ["labels", "plain"])
def test_the_page_says_what_the_study_found(studies: dict[str, Study], kind: str):
    study = studies[kind]
    page = Page(study_page(study))
    assert not page.loads
    assert not page.scripts
    assert study.verdict.sentence in page.text
    for name, row in study.rows.items():
        assert name in page.text
        assert f"{100 * row.mean:.1f}" in page.text
    for words in ("first hit was right", "score thresholds"):
        assert (words in page.text) == (kind == "labels")
    assert "Would more pairs help?" in page.text
    assert page.tags.count("svg") == 3


def test_nothing_is_taken_for_html(studies: dict[str, Study]):
    study = studies["labels"]
    rows = {name: replace(row, name=HOSTILE, about=HOSTILE) for name, row in study.rows.items()}
    verdict = replace(study.verdict, sentence=HOSTILE, notes=[HOSTILE])
    page = Page(study_page(replace(study, rows=rows, verdict=verdict)))
    assert not page.scripts
    assert page.text.count(HOSTILE) > len(rows)


def test_a_study_of_one_share_has_no_learning_curve(studies: dict[str, Study]):
    study = replace(studies["plain"], learning=studies["plain"].learning[-1:])
    assert "Would more pairs help?" not in Page(study_page(study)).text
