"""`fit --report` judges and writes a page; `sample` says which rows to re-embed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from cli_support import ROWS, Outcome, World

from fct_fast.bundle import read_bundle

Run = Callable[..., Outcome]


def words(world: World, *more: object) -> list[object]:
    arrays = ["--old", world / "old.npy", "--side", world / "side.npy", "--new", world / "new.npy"]
    small = ["--epochs", 2, "--inner-dim", 16, "--batch-size", 128, "--threads", 1]
    places = ["--out", world / "judged.safetensors", "--report", world / "r.html"]
    return ["fit", *arrays, *small, *places, *more]


def test_a_study_from_the_command_line(world: World, run: Run) -> None:
    told = run(*words(world, "--labels", world / "labels.npy", "--json"))
    assert told.code == 0, told.err
    study = told.document["study"]
    assert study["verdict"]["sentence"] in (world / "r.html").read_text().replace("&#39;", "'")
    assert study["measure"] == "mAP"
    assert {"old", "ridge", "ridge + side", "h", "new", "queries by ridge"} <= set(study["rows"])
    assert study["train_rows"] + study["test_rows"] == ROWS
    bundle = read_bundle(world / "judged.safetensors")
    assert told.document["digest"] == bundle.digest
    assert bundle.training["pairs"] == study["train_rows"]
    assert "study: 1 of" in told.err


def test_people_read_a_table_and_a_sentence(world: World, run: Run) -> None:
    told = run(*words(world, "--method", "ridge"))
    assert told.code == 0, told.err
    assert "overlap@10" in told.out
    assert "(best)" in told.out
    assert any("pgrade" in line for line in told.out.splitlines()[-3:])
    assert any(line.startswith("Without labels") for line in told.out.splitlines()[-2:])
    run(*words(world)).failed(2, "judged.safetensors exists", "--yes")


def test_a_sample_names_rows_and_ids(world: World, run: Run) -> None:
    rows, ids = world / "rows.npy", world / "sampled_ids.npy"
    asked = ["sample", "--old", world / "old.npy", "--side", world / "side.npy", "--out", rows]
    told = run(*asked, "--count", 100)
    assert told.code == 0, told.err
    assert "100 of 1,200 rows" in told.out
    chosen = np.load(rows)
    assert chosen.dtype == np.int64
    assert len(np.unique(chosen)) == 100
    assert (np.diff(chosen) > 0).all()
    np.save(world / "old.ids.npy", np.arange(ROWS) + 7000)
    assert run(*asked, "--count", 100, "--ids-out", ids, "-y").code == 0
    assert np.array_equal(np.load(ids), np.load(rows) + 7000)
    assert run(*asked, "--json", "-y").document["rows"] == ROWS
    run(*asked, "--count", ROWS + 1, "-y").failed(2, "1200 rows")


def test_ids_are_asked_for_only_where_there_are_some(world: World, run: Run) -> None:
    told = run("sample", "--old", world / "new.npy", "--out", world / "r.npy", "--ids-out", world / "i.npy")
    told.failed(2, "no .ids.npy")
    assert not (world / "r.npy").exists()
