"""The stages of the GPU suite: what each does, how long it may take, and what must have passed before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

__all__ = ["MOST_SECONDS", "STAGES", "Stage", "chosen"]

MOST_SECONDS = 530  # of any stage, so that a batch job of ten minutes holds one


@dataclass(frozen=True)
class Stage:
    """what: in words. run: "module:function" in this package, called in a process of its own; it returns figures as
    plain data, or raises. needs: stages whose results it stands on."""

    what: str
    run: str
    needs: tuple[str, ...] = ()
    limit_s: int = MOST_SECONDS


_CORRECT = ("correct-upgrade", "correct-search")

STAGES: dict[str, Stage] = {
    "build": Stage("compile the module and the CUDA library into the package", "build:build"),
    "correct-upgrade": Stage("the upgrade against float64, fresh data", "correct:upgrade", ("build",)),
    "correct-search": Stage("the search against the CPU's", "correct:search", ("build",)),
    "correct-rank": Stage("the evaluation against the CPU's", "correct:rank", ("build",)),
    "correct-backfill": Stage("a backfill on the GPU", "correct:backfill", ("correct-upgrade",)),
    "memcheck": Stage("compute-sanitizer memcheck on small shapes", "sanitize:memcheck", ("build",)),
    "racecheck": Stage("compute-sanitizer racecheck on small shapes", "sanitize:racecheck", ("build",)),
    "synccheck": Stage("compute-sanitizer synccheck on small shapes", "sanitize:synccheck", ("build",)),
    "ceiling": Stage("what the device reaches: 8192^3 fp16 matmul, link, memory", "ceiling:ceiling", ("build",), 120),
    "time-upgrade": Stage("the upgrade beside torch and ml-fct", "time_upgrade:large", ("correct-upgrade", "ceiling")),
    "time-small": Stage("a small h beside torch.compile", "time_upgrade:small", ("correct-upgrade",)),
    "time-one": Stage("one row: device time and the Python call", "time_upgrade:one", ("correct-upgrade",), 120),
    "time-host": Stage("host arrays in and out beside link and kernel", "time_host:host", (*_CORRECT, "ceiling")),
    "time-search": Stage("1024 queries over 10,000,000 rows beside torch", "time_search:large", ("correct-search",)),
    "time-rank": Stage("CMC and mAP of 50,000 x 50,000", "time_rank:leave_one_out", ("correct-rank",)),
    "suite": Stage("the cases of pytest-benchmark, one after the other", "suite_stage:suite", _CORRECT),
    "second-opinion": Stage("layers by CUTLASS beside ours", "second_opinion:second_opinion", ("correct-upgrade",)),
    "peers-upgrade": Stage("torch.compile at its slowest to start", "peers:upgrade", ("correct-upgrade",)),
    "peers-search": Stage("FAISS and cuVS, where they are installed", "peers:search", ("correct-search",)),
}


def chosen(named: Sequence[str], passed: Collection[str], *, again: bool) -> list[str]:
    """The stages to run, in order: those named, by default all, without those that have passed unless `again`.

    Raises SystemExit for a name that is no stage.
    """
    unknown = [name for name in named if name not in STAGES]
    if unknown:
        raise SystemExit(f"there is no stage {unknown[0]!r}; use {', '.join(STAGES)}")
    return [name for name in STAGES if (not named or name in named) and (again or name not in passed)]
