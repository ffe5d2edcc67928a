"""The page: every row of the document, tables that are tables, and nothing of the machine that it was made on."""

from __future__ import annotations

import re
from typing import Any

from fct_fast.experiment import Experiment, claims, results_page


def test_every_row_and_every_sentence_is_told(summary: dict[str, Any]) -> None:
    page = results_page(summary)
    for sentence in claims(summary):
        assert f"- {sentence}\n" in page
    for name, row in summary["rows"].items():
        title, _, option = name.partition("@")
        shown = f"{100 * row['map']['mean']:.1f} ["
        assert f"`{name}`" in page or (option and shown in page), (title, option)


def test_tables_have_a_cell_for_each_column(summary: dict[str, Any]) -> None:
    tables = re.findall(r"(?:^\|.*\|\n?)+", results_page(summary), flags=re.M)
    assert len(tables) > 12
    for table in tables:
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}
        assert len(widths) == 1, table


def test_the_head_says_how_it_was_made(summary: dict[str, Any]) -> None:
    page = results_page(summary)
    assert summary["command"] in page
    assert summary["recipe_hash"] in page
    assert "Seeds 0, 1" in page
    assert "`unknown`" in page
    assert "STIXGeneral" in page


def test_nothing_of_this_machine(summary: dict[str, Any], finished: Experiment) -> None:
    page = results_page(summary)
    folder = finished.stores[0].path("rows").parents[2]
    assert str(folder) not in page
    assert not re.search(r"(?<![\w`])/(tmp|home|work|root|dev)/", page)


def test_the_tuning_marks_what_the_recipe_uses(summary: dict[str, Any]) -> None:
    page = results_page(summary)
    assert re.search(r"\| BCT \| weight 1, extended classifier \|.*\| yes \|", page)
    assert re.search(r"\| BCT \| weight 0\.5 \|.*\|  \|", page)
    assert re.search(r"\| L2 \| weight 1 \|.*\| yes \|", page)
    assert "Nothing." in results_page({**summary, "tuning": None})
