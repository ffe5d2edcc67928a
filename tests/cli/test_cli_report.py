"""`fct-fast report` writes one page on a job and touches nothing else."""

from __future__ import annotations

from collections.abc import Callable

from cli_support import ROWS, Outcome, World

Run = Callable[..., Outcome]


def test_a_page_beside_the_ledger_or_where_it_is_asked_for(world: World, run: Run) -> None:
    assert run(*world.backfill("--shard-rows", 100, "--verify", "--json")).code == 0
    told = run("report", world / "up.npy", "--json").document
    assert told == {
        "report": str(world / "up.npy.job/report.html"),
        "phase": "verified",
        "rows": ROWS,
        "total_rows": ROWS,
    }
    assert "sampled rows against float64" in (world / "up.npy.job/report.html").read_text()
    assert run("report", world / "up.npy.job", "--out", world / "r.html").out == f"report: {world / 'r.html'}\n"
    assert (world / "r.html").read_bytes().startswith(b"<!DOCTYPE html>")
    run("report", world / "up.npy", "--out", world / "r.html").failed(2, "r.html exists", "--yes")
    assert run("report", world / "up.npy", "--out", world / "r.html", "--yes").code == 0
    assert run("status", world / "up.npy", "--json").document["phase"] == "verified"


def test_rows_that_cannot_be_read_leave_a_page_that_says_so(world: World, run: Run) -> None:
    assert run(*world.backfill("--json")).code == 0
    (world / "old.npy").unlink()
    assert run("report", world / "up.npy").code == 0
    assert "Rows cannot be shown: cannot read" in (world / "up.npy.job/report.html").read_text()


def test_no_job_no_page(world: World, run: Run) -> None:
    run("report", world / "nothing.npy").failed(1, "holds no job")


def test_a_damaged_results_file_is_one_sentence(world: World, run: Run) -> None:
    folder = world / "experiment"
    folder.mkdir()
    for text in ("{", "[]", '{"rows": {}}'):
        (folder / "results.json").write_text(text)
        run("report", folder).failed(1, "results.json", "run that again")
    assert not (folder / "report.html").exists()
