"""`fit` writes a bundle that the other verbs run, and says how good it is on rows that it did not see."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cli_support import NEW_DIM, OLD_DIM, SIDE_DIM, Outcome, World

from fct_fast.bundle import read_bundle
from fct_fast.upgrader import Upgrader

Run = Callable[..., Outcome]


def words(world: World, *more: object) -> list[object]:
    arrays = ["--old", world / "old.npy", "--side", world / "side.npy", "--new", world / "new.npy"]
    small = ["--epochs", 2, "--inner-dim", 16, "--batch-size", 128]
    return ["fit", *arrays, *small, "--out", world / "fitted.safetensors", *more]


def test_fit_writes_a_bundle_with_named_spaces(world: World, run: Run) -> None:
    told = run(*words(world, "--labels", world / "labels.npy", "--new-space", "new-7", "--seed", 3, "--json"))
    assert told.code == 0
    assert told.err.splitlines()[-1].startswith("fit: 2 of 2 epochs")
    bundle = read_bundle(world / "fitted.safetensors")
    document = told.document
    assert document["digest"] == bundle.digest
    assert document["metrics"] == bundle.training["metrics"]
    assert 0 < document["metrics"]["held_out_rows"] < 200
    assert (bundle.spec.old_dim, bundle.spec.side_dim, bundle.spec.new_dim) == (OLD_DIM, SIDE_DIM, NEW_DIM)
    assert bundle.spaces["new"].model_id == "new-7"
    assert bundle.training["config"]["seed"] == 3


def test_the_same_seed_gives_the_same_bundle(world: World, run: Run) -> None:
    digests = [run(*words(world, "--threads", 1, "--json", "-y")).document["digest"] for _ in range(2)]
    assert digests[0] == digests[1]


def test_ridge_for_people_and_a_better_map_than_none(world: World, run: Run) -> None:
    told = run(*words(world, "--method", "ridge", "--limit", 800))
    assert told.code == 0
    assert "720 to train on, 80 held out" in told.out
    line = next(line for line in told.out.splitlines() if line.startswith("ridge"))
    cosine = float(line.split()[1])
    rows = slice(800, None)  # beyond the limit
    new = Upgrader(world / "fitted.safetensors")(world.load("old.npy")[rows], world.load("side.npy")[rows])
    measured = (new * world.load("new.npy")[rows]).sum(axis=1).mean()
    assert cosine == pytest.approx(measured, abs=0.05)
    assert measured > 0.8


def test_fit_asks_before_it_overwrites(world: World, run: Run) -> None:
    (world / "fitted.safetensors").write_bytes(b"mine")
    run(*words(world)).failed(2, "fitted.safetensors exists", "--yes")
    assert (world / "fitted.safetensors").read_bytes() == b"mine"


def test_bad_pairs_are_one_sentence(world: World, run: Run) -> None:
    world.save("side.npy", world.load("side.npy")[:-1])
    run(*words(world)).failed(1, "1200", "1199")
    world.save("side.npy", np.full((1200, SIDE_DIM), np.nan, np.float32))
    run(*words(world)).failed(1, "side", "row 0")
    world.save("side.npy", np.zeros(1200, np.float32))
    run(*words(world)).failed(1, "side")
    run(*words(world, "--lr", -1)).failed(2, "lr")
    assert not (world / "fitted.safetensors").exists()


def test_options_come_from_a_file_and_the_command_line_comes_first(world: World, run: Run) -> None:
    file = world / "fit.yaml"
    file.write_text("inner_dim: 8\nepochs: 2\nwarmup_epochs: 1.0\nloss: {similarity: cosine}\n")
    assert run(*words(world, "--config", file, "--epochs", 3)).code == 0
    config = read_bundle(world / "fitted.safetensors").training["config"]
    assert (config["epochs"], config["inner_dim"], config["loss"]["similarity"]) == (3, 16, "cosine")
    file.write_text("epoch: 2\n")
    run(*words(world, "--config", file, "-y")).failed(2, "no option epoch", "epochs")


def test_a_training_goes_on_from_its_checkpoint(world: World, run: Run) -> None:
    kept = ["--checkpoint", world / "state.safetensors", "--threads", 1, "--json", "-y"]
    first = run(*words(world, *kept)).document["digest"]
    again = run(*words(world, *kept))
    assert again.document["digest"] == first
    assert "2 of 2 epochs" not in again.err  # nothing was left to do
    run(*words(world, *kept, "--lr", 0.1)).failed(2, "another lr", "0.1", "state.safetensors")
