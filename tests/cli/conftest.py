"""Two ways to run the program, and the files that it is given."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_support import CLASSES, NEW_DIM, OLD_DIM, ROWS, SIDE_DIM, Outcome, World, environment, hear_interrupts
from typer.testing import CliRunner

from fct_fast.bundle import write_bundle
from fct_fast.cli.app import app
from fct_fast.space import SpaceFingerprint
from fct_fast.spec import Branch, Layer, TransformSpec

MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder; in memory where that serves as a disk, since backfills flush often."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK):
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            yield Path(folder)
    else:
        yield tmp_path_factory.mktemp("cli")


@pytest.fixture
def world(tmp_path: Path) -> World:
    rng = np.random.default_rng(7)

    def layer(out_dim: int, in_dim: int, relu: bool) -> Layer:
        weight = (rng.standard_normal((out_dim, in_dim)) / np.sqrt(in_dim)).astype(np.float32)
        return Layer(weight, (0.1 * rng.standard_normal(out_dim)).astype(np.float32), relu)

    branches = (Branch("old", (layer(32, OLD_DIM, True),)), Branch("side", (layer(10, SIDE_DIM, True),)))
    spec = TransformSpec(OLD_DIM, SIDE_DIM, NEW_DIM, branches, (layer(30, 42, True), layer(NEW_DIM, 30, False)))
    labels = rng.integers(0, CLASSES, ROWS)
    centres = rng.standard_normal((CLASSES, OLD_DIM + SIDE_DIM))
    both = (centres[labels] + 0.4 * rng.standard_normal((ROWS, OLD_DIM + SIDE_DIM))).astype(np.float32)
    old, side = both[:, :OLD_DIM].copy(), both[:, OLD_DIM:].copy()
    new = spec.apply_float64(old, side).astype(np.float32)
    arrays = {"old": old, "side": side, "new": new}
    for name, array in {**arrays, "labels": labels}.items():
        np.save(tmp_path / f"{name}.npy", array)
    spaces = {name: SpaceFingerprint.measure(array, model_id=f"{name}-1") for name, array in arrays.items()}
    write_bundle(tmp_path / "h.safetensors", spec=spec, spaces=spaces)
    return World(tmp_path, spec)


@pytest.fixture
def run() -> Callable[..., Outcome]:
    """run(*words): the program in this process."""

    def invoke(*words: object) -> Outcome:
        result = CliRunner().invoke(app, [str(word) for word in words])
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return invoke


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """start(*words): the program as a process of its own, one thread, ended when the test ends."""
    running: list[subprocess.Popen[str]] = []

    def begin(*words: object, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "fct_fast", *map(str, words)],
            text=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            | {"env": environment(), "preexec_fn": hear_interrupts}
            | options,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def spawn(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., Outcome]:
    """spawn(*words): run the program as a process and wait for its end."""

    def wait(*words: object, **options: Any) -> Outcome:
        process = start(*words, **options)
        out, err = process.communicate(timeout=120)
        return Outcome(process.returncode, out or "", err or "")

    return wait
