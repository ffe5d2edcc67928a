"""What the tests of the command line share: a small world of files, and the outcome of a run."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fct_fast.spec import TransformSpec

ROWS, OLD_DIM, SIDE_DIM, NEW_DIM, CLASSES = 1200, 16, 5, 12, 40


@dataclass(frozen=True)
class Outcome:
    """What a run of the program did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON object that stdout holds, and nothing else."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    def failed(self, code: int, *parts: str) -> None:
        """Ended with this code, clean stdout and one sentence that says these parts."""
        assert (self.code, self.out) == (code, ""), self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("fct-fast: ")
        for part in parts:
            assert part in lines[0], lines[0]


@dataclass(frozen=True)
class World:
    """A gallery of clustered rows with side-information, its true new embeddings, and an h that knows its spaces."""

    folder: Path
    spec: TransformSpec

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def load(self, name: str) -> np.ndarray[Any, np.dtype[Any]]:
        array: np.ndarray[Any, np.dtype[Any]] = np.load(self.folder / name)
        return array

    def save(self, name: str, array: Any) -> Path:
        np.save(self.folder / name, array)
        return self.folder / name

    def backfill(self, *more: object, sink: str = "up.npy") -> list[object]:
        return [
            "backfill",
            self / "old.npy",
            self / sink,
            "--bundle",
            self / "h.safetensors",
            "--side",
            self / "side.npy",
            *more,
        ]


def environment() -> dict[str, str]:
    """This process's, with the package on the path from any folder."""
    import fct_fast

    root = str(Path(fct_fast.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def hear_interrupts() -> None:
    """A shell that runs tests in the background makes its children deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
