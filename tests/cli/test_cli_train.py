"""`fct-fast train glyphs` as a user runs it: killed at a moment of its choosing, run again, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from cli_support import Outcome

from fct_fast.experiment import load_recipe


def small_recipe(path: Path) -> Path:
    """The quick recipe, with fewer classes and steps, and without tuning."""
    values = load_recipe("quick").to_json()
    base = values["base"]
    base |= {"classes": 8, "old_classes": 4, "embedding_dim": 8, "pair_views": 3, "gallery_views": 2}
    base["views"]["size"] = 8
    base["fit"] |= {"inner_dim": 16, "epochs": 1, "batch_size": 64, "held_out": 0.1}
    models = [base["old"], base["side"], base["new"], values["wide"]["model"], values["third"]]
    for model in [*models, *values["encoders"].values()]:
        model["channels"] = 2
        model["training"]["steps"] = 2
    values["wide"]["embedding_dim"] = 16
    values |= {"codecs": ["pca4"], "learning": [80], "points": 3, "fpr": 0.1}
    path.write_text(yaml.safe_dump(values))
    return path


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def without_time(path: Path) -> dict[str, object]:
    document = json.loads(path.read_text())
    assert document.pop("processor_seconds")
    assert isinstance(document, dict)
    return document


def test_killed_and_run_again(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], run: Callable[..., Outcome]
) -> None:
    recipe, killed, whole = small_recipe(tmp_path / "own.yaml"), tmp_path / "killed", tmp_path / "whole"
    words = ("train", "glyphs", "--recipe", recipe, "--seeds", "1", "--jobs")
    process = start(*words, "2", "--out", killed)
    until = time.monotonic() + 90
    while len(list(killed.glob("stages/seed0/*.safetensors"))) < 6:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(children) >= 2
    while any(map(alive, children)):  # they do not wait for ever for work that nobody gives them
        assert time.monotonic() < until
        time.sleep(0.02)
    assert not (killed / "results.json").exists()
    before = {path.name: path.stat().st_mtime_ns for path in killed.glob("stages/seed0/*.safetensors")}

    told = run(*words, "1", "--out", killed, "--results", tmp_path / "page.md", "--json")
    assert told.code == 0, told.err
    after = {path.name: path.stat().st_mtime_ns for path in killed.glob("stages/seed0/*.safetensors")}
    assert len(before) >= 6
    assert before.items() <= after.items()
    assert told.document.keys() == {"rows", "results", "seconds"}
    assert told.document["results"] == str(tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == (killed / "results.md").read_text()

    assert run(*words, "1", "--out", whole).code == 0
    assert without_time(killed / "results.json") == without_time(whole / "results.json")


def test_what_cannot_be_is_said(tmp_path: Path, run: Callable[..., Outcome]) -> None:
    recipe = small_recipe(tmp_path / "own.yaml")
    run("train", "faces", "--out", tmp_path).failed(2, "faces")
    run("train", "glyphs").failed(2, "--out")
    run("train", "glyphs", "--out", tmp_path, "--seeds", 0).failed(2, "--seeds")
    run("train", "glyphs", "--out", tmp_path, "--quick", "--recipe", recipe).failed(2, "--quick")
    recipe.write_text(recipe.read_text() + "colour: red\n")
    run("train", "glyphs", "--out", tmp_path, "--recipe", recipe).failed(2, "no option colour")
    run("train", "glyphs", "--out", tmp_path, "--recipe", tmp_path / "missing.yaml").failed(2, "missing.yaml")
