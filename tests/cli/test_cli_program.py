"""The program as a whole: help, usage errors, exit codes, clean streams, a quick start without torch."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from cli_support import Outcome, World, environment

import fct_fast
from fct_fast import errors
from fct_fast.cli.app import _VERBS, app
from fct_fast.cli.errors import explain, one_line

Run = Callable[..., Outcome]


def test_help_lists_every_verb_and_every_verb_has_help(run: Run) -> None:
    page = run("--help")
    assert page.code == 0
    for verb in _VERBS:
        assert f" {verb} " in page.out
        help_page = run(verb, "--help")
        assert help_page.code == 0
        assert "--json" in help_page.out


def test_no_verb_prints_the_help(run: Run) -> None:
    assert run().out == run("--help").out


def test_version(spawn: Run) -> None:
    assert spawn("--version") == Outcome(0, f"fct-fast {fct_fast.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["nosuch"], ["No such command 'nosuch'", "fct-fast --help"]),
        (["serach"], ["Did you mean 'search'"]),
        (["--nosuch"], ["--nosuch"]),
        (["evaluate", "--queries", "q.npy"], ["--query-labels", "fct-fast evaluate --help"]),
        (["evaluate", "--queries", "q", "--query-labels", "l", "--k", "0"], ["'0' is not a list of numbers from 1 up"]),
        (["evaluate", "--queries", "q", "--query-labels", "l", "--metric", "l3"], ["--metric", "l3"]),
        (["search", "--queries", "q", "--k", "0", "--gallery", "g"], ["--k"]),
        (["search", "--queries", "q"], ["--gallery", "--bundle"]),
        (["search", "--queries", "q", "--gallery", "g", "--bundle", "h", "--old", "o"], ["either"]),
        (["plan", "a.npy", "b.npy"], ["--bundle"]),
        (["verify", "job", "--min-overlap", "0.5"], ["--reference"]),
        (["doctor", "extra"], ["extra"]),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_code_2(run: Run, words: list[str], parts: list[str]) -> None:
    run(*words).failed(2, *parts)


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (errors.VerificationError("no"), 3, "no"),
        (errors.ConfigError("no"), 2, "no"),
        (errors.StoreError("gone"), 1, "gone"),
        (errors.NonFiniteError("row 3"), 1, "row 3"),
        (MemoryError(), 1, "out of memory"),
        (np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype("f4")), 1, "Unable to allocate"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "permission denied: /x/y"),
        (OSError(28, "No space left on device"), 1, "free space"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 1, "'torch' is missing"),
        (ModuleNotFoundError("No module named 'fct_fast.x'", name="fct_fast.x"), 1, "--debug"),
        (
            ZeroDivisionError("division by zero"),
            1,
            "unexpected ZeroDivisionError: division by zero; run again with --debug",
        ),
    ],
)
def test_every_failure_has_a_sentence_and_a_code(error: Exception, code: int, part: str) -> None:
    sentence, given = explain(error)
    assert given == code
    assert part in sentence


def test_a_sentence_is_one_printable_line() -> None:
    assert one_line("a\nb\x1b[31m \t c\x00") == "a b?[31m c?"


def test_debug_prints_the_traceback_and_the_sentence(run: Run, tmp_path: Path) -> None:
    words = ["evaluate", "--queries", tmp_path / "no.npy", "--query-labels", "l.npy"]
    run(*words).failed(1, "no.npy")
    for told in (run(*words, "--debug"), run("--debug", *words)):
        assert (told.code, told.out) == (1, "")
        assert "Traceback" in told.err
        assert told.err.splitlines()[-1].startswith("fct-fast: ")


def test_an_unexpected_exception_and_a_warning_are_one_line_each() -> None:
    """Through the real group, with verbs that misbehave."""
    broken = typer.Typer(cls=type(typer.main.get_command(app)), add_completion=False)

    @broken.command()
    def crash() -> None:
        warnings.warn("something\nodd", stacklevel=1)
        raise RuntimeError("two\nlines")

    @broken.command()
    def interrupt() -> None:
        raise KeyboardInterrupt

    result = typer.testing.CliRunner().invoke(broken, ["crash"])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "fct-fast: warning: something odd",
        "fct-fast: unexpected RuntimeError: two lines; run again with --debug to see where",
    ]
    result = typer.testing.CliRunner().invoke(broken, ["interrupt"])
    assert (result.exit_code, result.stderr) == (130, "fct-fast: interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_an_error(spawn: Run) -> None:
    with Path("/dev/full").open("w") as full:
        spawn("doctor", "--json", stdout=full).failed(1, "no space left")


def test_a_reader_that_stops_early_is_no_story(world: World) -> None:
    words = f"search --queries {world / 'new.npy'} --gallery {world / 'new.npy'} --k 100 --json"
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m fct_fast {words} | head -c 1"],
        capture_output=True,
        env=environment(),
        check=True,
    )
    assert (done.stdout, done.stderr) == (b"{", b"")


def test_ctrl_c_outside_a_job_is_130(world: World, start: Callable[..., subprocess.Popen[str]]) -> None:
    rng = np.random.default_rng(0)
    queries, labels = (
        world.save("q.npy", rng.standard_normal((60000, 128), np.float32)),
        world.save("l.npy", np.arange(60000) % 9),
    )
    process = start("evaluate", "--queries", queries, "--query-labels", labels, "--threads", 1)
    while "q.npy" not in Path(f"/proc/{process.pid}/maps").read_text():  # until it is at work
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "fct-fast: interrupted\n")


LIGHT = """
import sys
from typer.testing import CliRunner
from fct_fast.cli.app import app
for line in sys.stdin.read().splitlines():
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 0, (line, result.output)
    heavy = {m.split(".")[0] for m in sys.modules} & {"torch", "sklearn", "matplotlib", "jinja2"}
    assert not heavy, (line, heavy)
print("light")
"""


def test_verbs_without_training_never_import_torch(world: World) -> None:
    job = f"{world / 'old.npy'} {world / 'up.npy'} --bundle {world / 'h.safetensors'} --side {world / 'side.npy'}"
    search = f"search --queries {world / 'new.npy'} --limit 3"
    lines = [
        "--help",
        "fit --help",
        "demo --help",
        "doctor",
        f"plan {job}",
        f"backfill {job} --verify",
        f"status {world / 'up.npy'}",
        f"verify {world / 'up.npy'}",
        f"cutover {world / 'up.npy'}",
        f"rollback {world / 'up.npy'}",
        f"{search} --gallery {world / 'up.npy'}",
        f"{search} --bundle {world / 'h.safetensors'} --old {world / 'old.npy'} --side {world / 'side.npy'}",
        f"evaluate --queries {world / 'up.npy'} --query-labels {world / 'labels.npy'}",
    ]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert (done.stdout, done.stderr) == ("light\n", "")
