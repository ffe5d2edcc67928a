"""What goes to stdout and stderr: JSON that parses anywhere, progress that fits its place, questions on terminals only."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_support import Outcome, World

from fct_fast.cli import progress
from fct_fast.cli.options import counts
from fct_fast.cli.output import may_overwrite, print_facts, print_json, print_table
from fct_fast.cli.progress import Meter
from fct_fast.errors import ConfigError


def test_json_holds_no_nan_and_knows_numpy(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(
        {"a": np.float32(0.5), "b": np.arange(3), "c": float("nan"), "d": [float("inf"), Path("x")], 1: (None, True)}
    )
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": 0.5, "b": [0, 1, 2], "c": None, "d": [None, "x"], "1": [None, True]}
    assert text.count("\n") == 1


def test_long_values_are_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/very/long/" + 300 * "x"
    print_facts([("a", path), ("longer", 1)])
    assert capsys.readouterr().out == f"a       {path}\nlonger  1\n"


def test_a_table_is_plain_text_off_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("row", "CMC@1"), [("old", "31.9 %"), ("new", "72.2 %")])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert [line.split() for line in out.splitlines()[2:4]] == [["old", "31.9", "%"], ["new", "72.2", "%"]]


def test_plain_progress_is_rare_and_ends_with_the_total(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 4.0, 6.0, 7.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Meter("backfill", 10_000, row_bytes=1_000_000) as meter:
        for done in (1000, 4000, 6000, 7000, 10_000):
            meter.update(done, inherited=1000)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "backfill: 6,000 of 10,000 rows, 833 rows/s, 0.83 GB/s, 4.8 s left",
        "backfill: 10,000 of 10,000 rows, 900 rows/s, 0.90 GB/s",
    ]


def test_depths() -> None:
    assert counts("1,5") == (1, 5)


def test_scripts_overwrite_only_with_yes(tmp_path: Path) -> None:
    may_overwrite(tmp_path / "new", yes=False)
    (tmp_path / "old").write_text("x")
    may_overwrite(tmp_path / "old", yes=True)
    with pytest.raises(ConfigError, match="--yes"):
        may_overwrite(tmp_path / "old", yes=False)


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_a_terminal_is_asked_and_shown_a_bar(
    world: World, start: Callable[..., subprocess.Popen[str]], answer: str, code: int
) -> None:
    """Ids and scores exist; the question goes to the terminal, stdout stays clean."""
    ids, scores = world.save("i.npy", np.arange(2)), world.save("s.npy", np.arange(2))
    words = ["search", "--queries", world / "new.npy", "--gallery", world / "new.npy", "--out", ids, scores, "--json"]
    ours, theirs = os.openpty()
    process = start(*words, stdin=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, f"{answer}\n{answer}\n".encode())
    out, _ = process.communicate(timeout=60)
    told = os.read(ours, 10_000).decode()
    os.close(ours)
    assert process.returncode == code
    assert "i.npy exists. Replace it?" in told
    if answer == "y":
        assert json.loads(out)["out"] == [str(ids), str(scores)]
        assert np.load(ids).shape == (1200, 10)
    else:
        assert out == ""
        assert np.load(ids).shape == (2,)


def test_a_terminal_is_asked_before_a_cutover(
    world: World, run: Callable[..., Outcome], start: Callable[..., subprocess.Popen[str]]
) -> None:
    assert run(*world.backfill("--verify")).code == 0
    for answer, code in (("n", 1), ("y", 0)):
        ours, theirs = os.openpty()
        process = start("cutover", world / "up.npy", "--json", stdin=theirs, stderr=theirs)
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        out, _ = process.communicate(timeout=60)
        assert "live gallery? [y/N]" in os.read(ours, 10_000).decode()
        os.close(ours)
        assert (process.returncode, bool(out)) == (code, code == 0)
        assert (world / "live.json").exists() == (code == 0)
