"""A process that is killed, at any call or at any moment, and started again: the bytes of an undisturbed run."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from galleries import EACH, Bench, chosen
from gallery_support import leftovers
from kill_worker import EXIT
from store_cases import Case

ROOT = Path(__file__).parents[3]
KILLS = 60
KILLS_UNDER_STRESS = 3000


class Worker:
    """A process that runs backfills in children which end suddenly; see kill_worker.py."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name("kill_worker.py")), str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self._answer("ready\n")
        self.benches = {case.name: Bench(case, folder / case.name) for case in chosen()}

    def run(self, case: Case, kill_after: float | None = None, exit_at: int | None = None) -> int:
        """The wait status of a run: 0, or how it ended."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"case": case.name, "kill_after": kill_after, "exit_at": exit_at}) + "\n")
        self.process.stdin.flush()
        return int(json.loads(self._answer())["exit"])

    def close(self) -> None:
        self.process.communicate(timeout=60)

    def _answer(self, expected: str = "") -> str:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        assert answer, self.process.communicate(timeout=60)[1]
        assert expected in answer
        return answer


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    running = Worker(tmp_path)
    yield running
    running.close()


@EACH
def test_killed_at_every_call_then_resumed_gives_the_same_bytes(case: Case, worker: Worker) -> None:
    """The process is gone in the middle of its n-th call that changes the disk, for every n."""
    bench = worker.benches[case.name]
    for n in itertools.count(1):
        status = worker.run(case, exit_at=n)
        assert bench.wrong_before() == "", f"gone at call {n}"
        if status == 0:
            break
        assert os.waitstatus_to_exitcode(status) == EXIT, f"gone at call {n}"
        assert bench.wrong_after() == "", f"gone at call {n}"
        bench.clear()
    assert n > 30


@pytest.mark.parametrize(
    "kills", [KILLS, pytest.param(KILLS_UNDER_STRESS, marks=pytest.mark.stress)], ids=["short", "stress"]
)
def test_killed_at_random_moments_then_resumed_gives_the_same_bytes(kills: int, worker: Worker) -> None:
    """Also in the middle of what SQLite writes; and a resumed run is killed too."""
    seed = int(np.random.default_rng().integers(1 << 32))
    rng = np.random.default_rng(seed)
    seconds: dict[str, float] = {}
    for case in chosen() * 3:
        start = time.perf_counter()
        assert worker.run(case) == 0
        seconds[case.name] = time.perf_counter() - start
        assert worker.benches[case.name].wrong_after() == ""
        worker.benches[case.name].clear()
    stopped = 0
    for trial in itertools.count():
        assert trial < 10 * kills, "the runs end before they are killed"
        case = chosen()[trial % len(chosen())]
        bench = worker.benches[case.name]
        for part in (1.0, 0.5, 0.5)[: rng.integers(1, 4)]:
            status = worker.run(case, kill_after=float(rng.uniform(0, part * seconds[case.name])))
            assert status in (0, signal.SIGKILL), f"seed {seed}"
            assert bench.wrong_before() == "", f"seed {seed}, trial {trial}"
            stopped += status != 0
        assert bench.wrong_after() == "", f"seed {seed}, trial {trial}"
        assert leftovers(bench.out) == [], f"seed {seed}, trial {trial}"
        bench.clear()
        if stopped >= kills:
            print(f"{stopped} kills in {trial + 1} jobs")
            break
