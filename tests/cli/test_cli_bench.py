"""`bench` measures the user's h, tells all of it as JSON or as two tables, and refuses what it cannot measure."""

from __future__ import annotations

from collections.abc import Callable

from cli_support import NEW_DIM, Outcome, World

from fct_fast.bench import usable_precisions

Run = Callable[..., Outcome]

SHORT = ("--rows", "1,20", "--queries", "2", "--gallery", 300, "--threads", 1)


def test_the_users_h_by_precision_and_batch(world: World, run: Run) -> None:
    told = run("bench", "--bundle", world / "h.safetensors", *SHORT, "--k", 4, "--json")
    assert told.code == 0
    found = told.document
    assert found["h"]["new_dim"] == NEW_DIM
    assert found["h"]["flops_per_row"] == world.spec.flops_per_row
    assert found["threads"] == 1
    assert [(x["precision"], x["rows"]) for x in found["upgrade"]] == [
        (precision, rows) for precision in usable_precisions() for rows in (1, 20)
    ]
    assert all(x["seconds"] > 0 and x["torch_seconds"] > 0 for x in found["upgrade"])
    assert [(x["precision"], x["queries"], x["rows"], x["k"]) for x in found["search"]] == [
        ("fp32", 2, 300, 4),
        ("int8", 2, 300, 4),
    ]


def test_tables_for_people_and_progress_beside_them(world: World, run: Run) -> None:
    told = run("bench", "--bundle", world / "h.safetensors", *SHORT)
    assert told.code == 0
    for part in ("rows/s", "times torch", "times faiss", "int8", "300 rows"):
        assert part in told.out, told.out
    assert "upgrade in fp32" in told.err
    assert "search" not in run("bench", "--bundle", world / "h.safetensors", *SHORT[:4], "--gallery", 0).out


def test_bad_input(world: World, run: Run) -> None:
    run("bench", "--bundle", world / "missing.safetensors", "--json").failed(1, "missing.safetensors")
    run("bench", "--rows", "1,x", "--json").failed(2, "1,x")
    run("bench", "--bundle", world / "h.safetensors", "--queries", "0", "--json").failed(2, "0")
