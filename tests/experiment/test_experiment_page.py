"""The page of an experiment has its sentences and rows, loads nothing and takes nothing for HTML."""

from __future__ import annotations

import copy
from typing import Any

from html_support import Page

from fct_fast.experiment import claims, row_titles
from fct_fast.report.experiment import experiment_page

HOSTILE = "<script>alert(1)</script>"


def test_sentences_rows_and_codecs_are_there(summary: dict[str, Any]) -> None:
    said = claims(summary)
    page = Page(experiment_page(summary, said, row_titles()))
    assert not page.loads
    assert not page.scripts
    for sentence in said:
        assert sentence in page.text
    for name, row in summary["rows"].items():
        assert name in page.text
        assert f"{100 * row['map']['mean']:.1f}" in page.text
    assert "h_side@pca4" in page.text
    assert page.tags.count("svg") == 2


def test_every_row_that_is_shown_has_a_title(summary: dict[str, Any]) -> None:
    named = {name for name in summary["rows"] if "@" not in name}
    assert named <= set(row_titles())


def test_nothing_is_taken_for_html(summary: dict[str, Any]) -> None:
    document = copy.deepcopy(summary)
    document["recipe_name"] = document["gallery"]["source"] = document["command"] = HOSTILE
    page = Page(experiment_page(document, [HOSTILE], dict.fromkeys(document["rows"], HOSTILE)))
    assert not page.scripts
    assert page.text.count(HOSTILE) > len(document["rows"])
