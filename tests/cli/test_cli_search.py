"""`search` and `evaluate` give what numpy and scikit-learn give on the same files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cli_support import Outcome, World
from sklearn.metrics import average_precision_score

from fct_fast.upgrader import Upgrader

Run = Callable[..., Outcome]


def neighbours(queries: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    scores = queries.astype(np.float64) @ rows.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def test_search_finds_what_numpy_finds(world: World, run: Run) -> None:
    new = world.load("new.npy")  # unit rows, so cosine and inner product agree
    told = run(
        "search", "--queries", world / "new.npy", "--gallery", world / "new.npy", "--k", 4, "--limit", 30, "--json"
    )
    assert (told.code, told.err) == (0, "")
    found = told.document
    assert found["ids"] == neighbours(new[:30], new, 4).tolist()
    assert (found["queries"], found["rows"], found["k"], found["metric"]) == (30, len(new), 4, "cosine")
    np.testing.assert_allclose(
        found["scores"], np.sort(new[:30].astype("f8") @ new.T.astype("f8"))[:, :-5:-1], atol=1e-6
    )


def test_search_on_the_fly_equals_search_in_the_upgraded_gallery(world: World, run: Run) -> None:
    up = Upgrader(world / "h.safetensors")
    world.save("stored.npy", up(world.load("old.npy"), world.load("side.npy")))
    words = ["search", "--queries", world / "new.npy", "--limit", 20, "--json"]
    stored = run(*words, "--gallery", world / "stored.npy").document
    flown = run(
        *words, "--bundle", world / "h.safetensors", "--old", world / "old.npy", "--side", world / "side.npy"
    ).document
    assert (flown["ids"], flown["scores"]) == (stored["ids"], stored["scores"])


def test_search_answers_with_the_ids_of_the_gallery(world: World, run: Run) -> None:
    """Of one file, and of a folder of shards; and writes them where it is told."""
    new, ids = world.load("new.npy"), np.array([f"item-{i}" for i in range(1200)])
    (world / "shards").mkdir()
    for i, start in enumerate((0, 500, 900)):
        stop = (500, 900, 1200)[i]
        world.save(f"shards/{i}.npy", new[start:stop])
        world.save(f"shards/{i}.ids.npy", ids[start:stop])
    words = ["search", "--queries", world / "new.npy", "--k", 3, "--limit", 5]
    expected = ids[neighbours(new[:5], new, 3)]
    assert run(*words, "--gallery", world / "shards", "--json").document["ids"] == expected.tolist()
    told = run(*words, "--gallery", world / "shards", "--out", world / "i.npy", world / "s.npy", "--json")
    assert "ids" not in told.document
    assert (world.load("i.npy") == expected).all()
    assert world.load("s.npy").dtype == np.float32


def test_search_for_people_shows_some_queries(world: World, run: Run) -> None:
    told = run("search", "--queries", world / "new.npy", "--gallery", world / "new.npy", "--k", 2)
    lines = told.out.splitlines()
    assert lines[0].startswith("query 0: 0 (1)  ")
    assert len(lines) == 12
    assert "1,190 more queries" in lines[10]


@pytest.mark.parametrize("with_gallery", [True, False])
def test_evaluate_equals_scikit_learn(world: World, run: Run, with_gallery: bool) -> None:
    old, labels = world.load("old.npy").astype(np.float64), world.load("labels.npy")
    words = [
        "evaluate",
        "--queries",
        world / "old.npy",
        "--query-labels",
        world / "labels.npy",
        "--limit",
        200,
        "--metric",
        "ip",
    ]
    if with_gallery:
        words += ["--gallery", world / "old.npy", "--gallery-labels", world / "labels.npy"]
    told = run(*words, "--k", "1,3", "--json").document
    precisions, hits = [], []
    for i in range(200):
        rows = np.arange(len(old)) if with_gallery else np.delete(np.arange(len(old)), i)
        scores, positive = old[rows] @ old[i], labels[rows] == labels[i]
        precisions.append(average_precision_score(positive, scores))
        hits.append(positive[np.argsort(-scores, kind="stable")[:3]])
    assert told["map"] == pytest.approx(np.mean(precisions), abs=1e-5)
    assert told["cmc"] == {
        "1": pytest.approx(np.mean([h[0] for h in hits])),
        "3": pytest.approx(np.mean([h.any() for h in hits])),
    }
    assert (told["queries"], told["skipped"], told["rows"]) == (200, 0, 1200)


def test_evaluate_for_people(world: World, run: Run) -> None:
    world.save("labels.npy", np.append(world.load("labels.npy")[:-1], 999))
    told = run("evaluate", "--queries", world / "new.npy", "--query-labels", world / "labels.npy")
    assert told.code == 0
    assert "1,199, 1 skipped" in told.out
    assert "query i is row i, left out" in told.out
    assert [line.split()[0] for line in told.out.splitlines()[:3]] == ["CMC@1", "CMC@5", "mAP"]


def test_a_device_that_is_not_there_is_a_sentence(world: World, run: Run) -> None:
    words = {
        "search": ("search", "--queries", world / "new.npy", "--gallery", world / "new.npy"),
        "on the fly": (
            *("search", "--queries", world / "new.npy", "--bundle", world / "h.safetensors"),
            *("--old", world / "old.npy", "--side", world / "side.npy"),
        ),
        "evaluate": ("evaluate", "--queries", world / "new.npy", "--query-labels", world / "labels.npy"),
    }
    for verb in words.values():
        run(*verb, "--json", "--device", "cuda").failed(1, "FCT_FAST_CUDA_UNVERIFIED=1 turns them on")
        run(*verb, "--json", "--device", "gpu").failed(2, "'gpu'")
        assert run(*verb, "--json", "--device", "cpu").code == 0
