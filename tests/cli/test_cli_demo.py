"""`demo --quick`, as a user runs it: the table, the JSON object, the report and the artifacts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_support import Outcome, environment
from demo_support import MAPS, made_up
from html_support import Page

from fct_fast.bundle import read_bundle
from fct_fast.cli.demo import _show
from fct_fast.report.demo import reading

ROWS = {"naive", "old", "side", "linear", "linear_side", "h", "h_side", "new"}


def demo(*words: object) -> Outcome:
    command = [sys.executable, "-m", "fct_fast", "demo", "--quick", "--threads", "1", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), timeout=300)
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return demo("--out", out, "--seed", 101, "--json"), out


def test_the_json_object(ran: tuple[Outcome, Path]) -> None:
    told, out = ran
    assert told.code == 0, told.err
    document = told.document
    assert document.keys() == {
        "rows", "old_over_new", "gap_closed", "kernel_rows_per_s", "torch_rows_per_s", "seconds", "report"
    }  # fmt: skip
    assert document["rows"].keys() == ROWS
    assert all(0 <= value <= 1 for row in document["rows"].values() for value in row.values())
    old, upgraded, new = (document["rows"][name]["map"] for name in ("old", "h_side", "new"))
    assert document["gap_closed"] == pytest.approx((upgraded - old) / (new - old))
    assert document["report"] == str(out / "report.html")


def test_progress_names_the_stages(ran: tuple[Outcome, Path]) -> None:
    lines = ran[0].err.splitlines()
    assert all(re.fullmatch(r"demo: [\w -]+, \d.*(s|ms|min)", line) for line in lines), lines
    assert any("backfill the gallery" in line for line in lines)
    assert len(lines) == len({line.split(",")[0] for line in lines})


def test_the_report_and_the_artifacts(ran: tuple[Outcome, Path]) -> None:
    told, out = ran
    page = Page((out / "report.html").read_text())
    assert page.loads == []
    assert f"{100 * told.document['rows']['h_side']['map']:.1f}\xa0%" in page.text
    assert page.images == 8 * 11
    assert read_bundle(out / "h.safetensors").spaces["new"].model_id
    assert json.loads((out / "gallery" / "live.json").read_text())["gallery"] == str(out / "gallery" / "upgraded.npy")


@pytest.mark.parametrize("name", ["report.html", "h.safetensors", "gallery"])
def test_files_of_somebody_else_are_kept(tmp_path: Path, run: Callable[..., Outcome], name: str) -> None:
    (tmp_path / name).write_text("mine")
    run("demo", "--quick", "--out", tmp_path).failed(1, f"{name} exists", "choose another output folder")
    assert (tmp_path / name).read_text() == "mine"


def test_a_place_that_cannot_be_written_is_found_out_at_once(run: Callable[..., Outcome]) -> None:
    run("demo", "--out", "/proc/demo").failed(1, "/proc/demo")


def test_the_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    _show(made_up(), Path("out/report.html"))
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()[2:10]]
    assert [line[0] for line in lines] == list(MAPS)
    assert lines[6][-8:] == ["54.0", "%", "74.0", "%", "44.0", "%", "80", "%"]
    for sentence in reading(made_up()):
        assert sentence in out
    assert "kernel 123,457 rows/s (level avx2), torch 100,000 rows/s" in out
    assert out.splitlines()[-1] == "1 min 15 s, seed 4. Report: out/report.html"
