"""Stages: named steps of an experiment whose results are kept on disk, so that a run that was killed goes on.

A stage's file is named after a key: the stage, the options that it reads, the seed, the keys of its inputs, and the
versions of what computes it. Whatever changes one of these makes another file; whatever does not, finds the old one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast import __version__
from fct_fast.errors import CorruptError
from fct_fast.fs import DISK

__all__ = ["Inputs", "Result", "Stage", "Store", "Stored"]

_LAYOUT = 1  # raise it when a stage computes something else from the same options
_NOTE = "fct_fast.stage"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Result:
    """What a stage found. facts: plain JSON values."""

    arrays: Mapping[str, Array] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Stored:
    """The file of a finished stage; arrays are read when they are asked for, and checked against their digests."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _note(self) -> dict[str, Any]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path, "np") as file:
                note = json.loads((file.metadata() or {})[_NOTE])
                if sorted(note["digests"]) != sorted(file.keys()) or not isinstance(note["facts"], dict):
                    raise ValueError("its arrays are not those that were written")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error
        checked: dict[str, Any] = note
        return checked

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self._note["facts"]
        return facts

    @property
    def seconds(self) -> float:
        """Of processor time that the stage took."""
        return float(self._note["seconds"])

    @property
    def names(self) -> list[str]:
        """Of the arrays."""
        return list(self._note["digests"])

    def __getitem__(self, name: str) -> Array:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path, "np") as file:
                array: Array = file.get_tensor(name)
            if _digest(array) != self._note["digests"][name]:
                raise ValueError(f"{name} has another digest")
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise self._damaged(error) from error
        return array

    def check(self) -> None:
        """Read everything once. Raises CorruptError."""
        for name in self.names:
            self[name]

    def _damaged(self, error: BaseException) -> CorruptError:
        return CorruptError(f"{self._path} is damaged ({error}); remove it and run again")


Inputs = Mapping[str, Stored]


@dataclass(frozen=True)
class Stage:
    """options: all that `run` depends on besides its inputs, as plain JSON values. run: Inputs -> Result."""

    name: str
    inputs: tuple[str, ...]
    options: Mapping[str, Any]
    run: Callable[[Inputs], Result]


class Store:
    """The folder of the results of `stages`, which are in an order in which they can be run; of one seed and split."""

    def __init__(self, folder: Path, stages: list[Stage], *, seed: int, split: str) -> None:
        self._folder = folder
        self.stages = {stage.name: stage for stage in stages}
        self.keys: dict[str, str] = {}
        for stage in stages:
            facts = {
                "stage": stage.name,
                "options": stage.options,
                "seed": seed,
                "split": split,
                "inputs": {name: self.keys[name] for name in stage.inputs},
                "versions": _versions(),
            }
            self.keys[stage.name] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def path(self, name: str) -> Path:
        return self._folder / f"{name}.{self.keys[name][:16]}.safetensors"

    def done(self, name: str) -> bool:
        return self.path(name).exists()

    def load(self, name: str) -> Stored:
        return Stored(self.path(name))

    def compute(self, name: str) -> None:
        """Run a stage whose inputs are done, and keep its result. Raises CorruptError for a damaged input, StoreError
        where the result cannot be written, and what the stage raises."""
        stage, start = self.stages[name], time.process_time()
        result = stage.run({given: self.load(given) for given in stage.inputs})
        self._write(self.path(name), result, time.process_time() - start)

    def _write(self, path: Path, result: Result, seconds: float) -> None:
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(array) for name, array in result.arrays.items()}
        digests = {name: _digest(array) for name, array in arrays.items()}
        note = json.dumps({"facts": dict(result.facts), "digests": digests, "seconds": seconds}, allow_nan=False)
        DISK.make_folder(path.parent)
        DISK.write_atomic(path, save(arrays, {_NOTE: note}))


def _digest(array: Array) -> str:
    sha = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def _versions() -> dict[str, Any]:
    return {"layout": _LAYOUT, "fct_fast": __version__} | {
        name: metadata.version(name) for name in ("numpy", "torch", "matplotlib", "scikit-learn")
    }
