"""The demo's page: one file, nothing loaded, everything escaped, and sentences that follow from the numbers."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from demo_support import MAPS, made_up
from html_support import Page
from PIL import Image

from fct_fast.demo.result import ROWS, DemoResult, Row
from fct_fast.report.demo import demo_page, reading

HOSTILE = '<script>alert("x")</script>&'


@pytest.fixture
def result() -> DemoResult:
    return made_up()


def test_one_file_that_loads_nothing_and_runs_nothing(result: DemoResult) -> None:
    page = Page(demo_page(result, ROWS))
    assert page.loads == []
    assert page.scripts == []
    assert page.images == 11
    assert page.tags.count("svg") == 3


def test_everything_of_the_result_is_escaped(result: DemoResult) -> None:
    hits = tuple(replace(hit, label=HOSTILE) for hit in result.pictures[0].old)
    checks = [{"name": HOSTILE, "passed": False, "detail": HOSTILE}]
    hostile = replace(
        result,
        gallery_source=HOSTILE,
        level=HOSTILE,
        pictures=(replace(result.pictures[0], old=hits),),
        verification={"passed": False, "checks": checks},
        losses={HOSTILE: [1.0, 2.0]},
        stages={HOSTILE: 1.0},
    )
    html = demo_page(hostile, ROWS)
    page = Page(html)
    assert page.scripts == []
    assert HOSTILE not in html
    assert page.text.count(HOSTILE) == 11


def test_the_table_has_the_numbers_in_order(result: DemoResult) -> None:
    html = demo_page(result, ROWS)
    found = re.findall(r"</span>(\w+)</td>.*?<td>(.*?)</td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>", html, re.S)
    expected = [
        (
            name,
            *(f"{100 * x:.1f}\xa0%" for x in (value + 0.1, value + 0.3, value)),
            f"{100 * (value - 0.2) / 0.3:.0f}\xa0%",
        )
        for name, value in MAPS.items()
    ]
    assert found == expected


def test_pictures_survive_bit_for_bit(result: DemoResult) -> None:
    html = demo_page(result, ROWS)
    first = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", html)[1])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(first))), result.pictures[0].query.image)
    assert html.count('class="hit right"') == 5
    assert html.count('class="hit wrong"') == 5
    assert "unseen" in html


def test_the_page_says_how_to_do_it_again(result: DemoResult) -> None:
    text = Page(demo_page(result, ROWS)).text
    assert "fct-fast demo --seed 4" in text
    assert f'"pair_views": {result.recipe.pair_views}' in text
    assert "STIX typefaces" in text
    assert "123,457" in text


def test_the_reading_follows_from_the_numbers(result: DemoResult) -> None:
    gain, naive, inputs, controls = reading(result)
    assert "30.0 mAP points better" in gain
    assert "wins 80 %" in gain
    assert "43 %" in gain
    assert "11.0 % of the queries" in naive
    assert "adds 11.0 points to what h makes of the old embedding alone, and adds 16.0 points" in inputs
    assert "(side) reaches 30.0 % mAP" in controls
    assert "(linear_side) 41.0 %" in controls
    assert "the old embedding adds 14.0 points" in controls
    assert "a linear map adds 3.0 points" in controls


def test_the_reading_is_honest_where_a_control_wins(result: DemoResult) -> None:
    rows = result.rows | {"side": Row(0, 0, 0.47), "linear_side": Row(0, 0, 0.442)}
    controls = reading(replace(result, rows=rows))[-1]
    assert "the old embedding costs 3.0 points" in controls
    assert "a linear map adds next to nothing (-0.2 points)" in controls
    rows = result.rows | {"new": Row(0, 0, 0.2)}
    assert "nothing to win" in reading(replace(result, rows=rows))[0]
    assert "\nnan" not in demo_page(replace(result, rows=rows), ROWS)
