"""The backfills that are disturbed, and what must hold of each after whatever happened to it."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_support import leftovers, make_rows, small_bundle, tree_digest
from store_cases import Case

from fct_fast.errors import FctError
from fct_fast.fs import DISK, FileSystem
from fct_fast.gallery import Job, Report, backfill
from fct_fast.upgrader import Upgrader

__all__ = ["EACH", "Bench", "chosen"]

# Store -> its cases in `cases_<store>.py` whose sinks write all their bytes through the file layer.
STORES = {"npy": ("npy file", "npy folder")}
ROWS, SHARD_ROWS = 72, 24


def chosen() -> list[Case]:
    """Only the modules of these stores are imported: the worker that forks must not have started threads."""
    modules = {store: importlib.import_module(f"cases_{store}") for store in STORES}
    return [case for store, names in STORES.items() for case in modules[store].CASES if case.name in names]


EACH = pytest.mark.parametrize("case", chosen(), ids=lambda case: case.name)


class Bench:
    """A gallery with a row that is no number, what an undisturbed run makes of it, and a look at any other run.

    out: where sink and job go, and nothing else is. The source lies beside it, on a disk that nothing happens to.
    apart: sink and job are in folders of their own, which do not exist yet.
    """

    def __init__(
        self, case: Case, folder: Path, rows: int = ROWS, shard_rows: int = SHARD_ROWS, *, apart: bool = False
    ) -> None:
        self.case, self.out, self.shard_rows = case, folder / "out", shard_rows
        for path in (folder / "source", self.out):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        made = make_rows(rows)
        self.up = Upgrader(small_bundle(made), threads=1)
        made.old[41, 2] = np.nan
        self.source = case.put(folder / "source", made, True)
        self.sink = Path(case.sink(self.out / "far" / "away" if apart else self.out))
        self.job_dir = self.out / "jobs" / "one" if apart else self.out / f"{self.sink.name}.job"
        self.run()
        self.products = self.shown()
        self.clear()

    def clear(self) -> None:
        shutil.rmtree(self.out)
        self.out.mkdir()

    def run(self, fs: FileSystem = DISK, **options: Any) -> Report:
        """Start or resume the backfill."""
        return backfill(
            self.source,
            self.sink,
            self.up,
            shard_rows=self.shard_rows,
            nonfinite="flag",
            job_dir=self.job_dir,
            fs=fs,
            **options,
        )

    def shown(self) -> dict[str, str]:
        """What lies at the place of the sink, but for the job's own directory, and its digest."""
        place = self.sink.parent
        found = place.iterdir() if place.is_dir() else ()
        return {path.name: tree_digest(path) for path in found if path != self.job_dir}

    def committed(self) -> int:
        """The rows that the ledger, if there is one, calls done."""
        return Job.open(self.job_dir).status().rows if (self.job_dir / "ledger.sqlite").exists() else 0

    def wrong_before(self) -> str:
        """What is wrong with that which a reader sees at the final place now; "" where nothing is."""
        shown = {name: digest for name, digest in self.shown().items() if ".partial-" not in name and name[0] != "."}
        wrong = [name for name, digest in shown.items() if self.products.get(name) != digest]
        if wrong:
            return f"{wrong[0]} is at its place and not what it should be"
        if self.sink.name in shown and shown != self.products:
            return f"{self.sink.name} is at its place without {min(self.products.keys() - shown)}"
        return ""

    def wrong_after(self) -> str:
        """Resume on a sound disk; what is wrong with the outcome, "" where nothing is."""
        try:
            done = self.committed()
            report = self.run()
            if report.resumed != done:
                return f"{report.resumed} rows were resumed and {done} were committed"
            differing = sorted(name for name, _ in self.shown().items() ^ self.products.items())
            if differing:
                return f"{differing[0]} is not as after an undisturbed run"
            if leftovers(self.out):
                return f"{leftovers(self.out)[0]} is left over"
            Job.open(self.job_dir).verify(sample_rows=16)
        except FctError as error:
            return f"{type(error).__name__}: {error}"
        return ""
