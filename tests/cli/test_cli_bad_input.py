"""Bad input: one sentence that says what is wrong and where, the right exit code, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cli_support import NEW_DIM, OLD_DIM, ROWS, Outcome, World

from fct_fast.bundle import read_bundle, write_bundle

Run = Callable[..., Outcome]
Spoil = Callable[[World], Any]


def cut_short(world: World, name: str) -> None:
    path = world / name
    path.write_bytes(path.read_bytes()[:-100])


def changed(name: str, change: Callable[[np.ndarray], Any]) -> Spoil:
    return lambda world: world.save(name, change(world.load(name)))


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(rows: np.ndarray) -> np.ndarray:
        rows[77, 3] = value
        return rows

    return change


def written(name: str, content: bytes) -> Spoil:
    return lambda world: (world / name).write_bytes(content)


def removed(name: str) -> Spoil:
    return lambda world: (world / name).unlink()


def pickled(world: World) -> None:
    np.save(world / "old.npy", np.array([{"a": 1}], object), allow_pickle=True)


def source_of_another_space(world: World) -> None:
    from fct_fast.gallery import write_space
    from fct_fast.space import SpaceFingerprint

    write_space(world / "old.npy", SpaceFingerprint.measure(world.load("old.npy"), model_id="another-model"))


def damaged_bundle(world: World) -> None:
    data = bytearray((world / "h.safetensors").read_bytes())
    data[-3] ^= 1
    (world / "h.safetensors").write_bytes(data)


def bundle_without_side(world: World) -> None:
    from fct_fast.spec import Branch, Layer, TransformSpec

    layer = Layer(np.eye(OLD_DIM, dtype=np.float32), np.zeros(OLD_DIM, np.float32), False)
    write_bundle(world / "h.safetensors", spec=TransformSpec(OLD_DIM, 0, OLD_DIM, (Branch("old", ()),), (layer,)))


# what is spoiled -> parts of the sentence
BACKFILL: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "wrong old dim": (changed("old.npy", lambda x: x[:, :-1]), ("old.npy", "15", "16")),
    "wrong side dim": (changed("side.npy", lambda x: x[:, :-1]), ("side.npy", "4", "5")),
    "one axis": (changed("old.npy", lambda x: x[:, 0]), ("old.npy", "[1200]")),
    "float64": (changed("old.npy", lambda x: x.astype(np.float64)), ("old.npy", "float64", "float32")),
    "integers": (changed("side.npy", lambda x: x.astype(np.int32)), ("side.npy", "int32")),
    "row counts": (changed("side.npy", lambda x: x[:-1]), ("1199", "1200")),
    "NaN": (changed("old.npy", with_value(np.nan)), ("row 77", "NaN")),
    "Inf in side": (changed("side.npy", with_value(np.inf)), ("row 77", "Inf")),
    "empty": (changed("old.npy", lambda x: x[:0]), ("old.npy",)),
    "truncated": (lambda world: cut_short(world, "old.npy"), ("old.npy", "cut short")),
    "not npy": (written("old.npy", b"hello, this is text"), ("old.npy", "not a .npy file")),
    "no bytes": (written("old.npy", b""), ("old.npy",)),
    "damaged header": (written("old.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': oops}\n"), ("old.npy", "damaged")),
    "pickle": (pickled, ("old.npy", "unpickled")),
    "missing": (removed("old.npy"), ("old.npy",)),
    "missing side": (removed("side.npy"), ("side.npy",)),
    "missing bundle": (removed("h.safetensors"), ("h.safetensors",)),
    "damaged bundle": (damaged_bundle, ("h.safetensors",)),
    "no bundle": (written("h.safetensors", b"PK\x03\x04 something"), ("h.safetensors",)),
    "another scale": (changed("old.npy", lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)), ("old",)),
    "another scale of side": (changed("side.npy", lambda x: 30 * x), ("side",)),
    "another space": (source_of_another_space, ("old.npy", "another-model", "old-1")),
    "side for an h without": (bundle_without_side, ("side",)),
    "sink exists": (written("up.npy", b"mine"), ("up.npy",)),
    "job folder in use": (
        lambda world: (world / "up.npy.job").mkdir() or (world / "up.npy.job/x").write_text(""),
        ("up.npy.job",),
    ),
}


@pytest.mark.parametrize("case", BACKFILL)
def test_a_backfill_refuses_bad_input(world: World, run: Run, case: str) -> None:
    spoil, parts = BACKFILL[case]
    spoil(world)
    kept = (world / "up.npy").exists() and (world / "up.npy").read_bytes()
    run(*world.backfill()).failed(1, *parts)
    assert ((world / "up.npy").exists() and (world / "up.npy").read_bytes()) == kept


def test_a_side_that_is_missing_on_the_command_line(world: World, run: Run) -> None:
    words = ["backfill", world / "old.npy", world / "up.npy", "--bundle", world / "h.safetensors"]
    run(*words).failed(1, "side-information of 5 values")


@pytest.mark.parametrize("sink", ["old.npy", "h.safetensors/up.npy", "/proc/up.npy", "up.hdf5"])
def test_a_sink_that_cannot_be(world: World, run: Run, sink: str) -> None:
    part = sink.removesuffix("/up.npy")
    run(*world.backfill(sink=sink)).failed(2 if sink in ("old.npy", "up.hdf5") else 1, part)
    assert world.load("old.npy").shape == (ROWS, OLD_DIM)
    assert read_bundle(world / "h.safetensors").spec == world.spec


def test_another_scale_can_be_let_pass_or_ignored(world: World, run: Run) -> None:
    BACKFILL["another scale of side"][0](world)
    told = run(*world.backfill("--scale-check", "warn", "--json", sink="a.npy"))
    assert told.code == 0
    assert told.document["warnings"]
    assert [line for line in told.err.splitlines() if line.startswith("fct-fast: warning: ")]
    told = run(*world.backfill("--scale-check", "off", "--json", sink="b.npy"))
    assert told.document["warnings"] == []


@pytest.mark.parametrize("verb", ["status", "verify", "cutover", "rollback"])
def test_no_job(world: World, run: Run, verb: str) -> None:
    run(verb, world / "old.npy").failed(1, "old.npy")
    run(verb, world / "nothing").failed(1, "nothing")


@pytest.mark.parametrize("verb", ["status", "verify", "cutover", "rollback"])
def test_a_damaged_ledger(world: World, run: Run, verb: str) -> None:
    assert run(*world.backfill()).code == 0
    ledger = world / "up.npy.job" / "ledger.sqlite"
    data = bytearray(ledger.read_bytes())
    data[data.index(b'"new_dim":') + 10] ^= 1
    ledger.write_bytes(data)
    run(verb, world / "up.npy").failed(1, "ledger.sqlite", "damaged")


SEARCH: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "k > n": (changed("new.npy", lambda x: x[:7]), ("k is 10", "7 rows")),
    "empty gallery": (changed("new.npy", lambda x: x[:0]), ("empty",)),
    "another dim": (changed("new.npy", lambda x: x[:, :5]), ("12", "5")),
    "float64": (changed("new.npy", lambda x: x.astype(np.float64)), ("new.npy", "float64")),
    "one axis": (changed("new.npy", lambda x: x[:, 0]), ("new.npy", "[1200]")),
    "truncated": (lambda world: cut_short(world, "new.npy"), ("new.npy", "cut short")),
    "not npy": (written("new.npy", b"text"), ("new.npy", "not a .npy file")),
    "missing": (removed("new.npy"), ("new.npy",)),
    "too few ids": (lambda world: world.save("new.ids.npy", np.arange(3)), ("new.npy", "1200", "3")),
    "folder without npy": (lambda world: (world / "new.npy").unlink() or (world / "new.npy").mkdir(), ("new.npy",)),
}


@pytest.mark.parametrize("case", SEARCH)
def test_search_refuses_bad_input(world: World, run: Run, case: str) -> None:
    queries = world.save("q.npy", world.load("new.npy")[:4])
    spoil, parts = SEARCH[case]
    spoil(world)
    words = ["search", "--queries", queries, "--gallery", world / "new.npy", "--out", world / "i.npy", world / "s.npy"]
    run(*words, "--json").failed(1, *parts)
    assert not (world / "i.npy").exists()


def test_search_on_the_fly_checks_the_scale(world: World, run: Run) -> None:
    world.save("side.npy", 30 * world.load("side.npy"))
    words = ["--bundle", world / "h.safetensors", "--old", world / "old.npy", "--side", world / "side.npy"]
    run("search", "--queries", world / "new.npy", *words).failed(1, "side")


def test_search_refuses_an_unwritable_place(world: World, run: Run) -> None:
    words = ["search", "--queries", world / "new.npy", "--gallery", world / "new.npy"]
    run(*words, "--out", world / "nowhere/i.npy", world / "s.npy").failed(1, "nowhere")


EVALUATE: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "row counts": (changed("labels.npy", lambda x: x[:-1]), ("labels", "1199")),
    "labels with two axes": (changed("labels.npy", lambda x: x[:, None]), ("labels.npy", "one a row")),
    "fractions as labels": (changed("labels.npy", lambda x: x + 0.5), ("labels.npy", "float64")),
    "NaN": (changed("new.npy", with_value(np.nan)), ("row 77", "NaN")),
    "empty": (changed("new.npy", lambda x: x[:0]), ("0 queries",)),
    "truncated labels": (lambda world: cut_short(world, "labels.npy"), ("labels.npy", "cut short")),
    "folder as labels": (
        lambda world: (world / "labels.npy").unlink() or (world / "labels.npy").mkdir(),
        ("labels.npy", "folder"),
    ),
}


@pytest.mark.parametrize("case", EVALUATE)
def test_evaluate_refuses_bad_input(world: World, run: Run, case: str) -> None:
    spoil, parts = EVALUATE[case]
    spoil(world)
    run("evaluate", "--queries", world / "new.npy", "--query-labels", world / "labels.npy", "--json").failed(1, *parts)


def test_evaluate_refuses_two_spaces(world: World, run: Run) -> None:
    words = ["--queries", world / "new.npy", "--gallery", world / "old.npy", "--query-labels", world / "labels.npy"]
    run("evaluate", *words).failed(1, str(NEW_DIM), str(OLD_DIM), "one space")
