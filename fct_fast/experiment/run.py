"""`run_experiment`: every stage of every seed, several at a time, then one document over all seeds.

A stage runs on one thread, in a process of its own where several run at a time: the same bits whatever `jobs` is, and
no core waits for another.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from fct_fast.errors import ConfigError, FctError
from fct_fast.experiment.plan import TUNING, open_store
from fct_fast.experiment.recipe import ExperimentRecipe
from fct_fast.experiment.stage import Store

__all__ = ["Experiment", "OnStage", "run_stages"]

Part = int | str
OnStage = Callable[[int, int, Part, str, float], None]
"""Called as on_stage(stages done, stages, seed or "tuning", stage, seconds) after each stage."""


@dataclass(frozen=True)
class Experiment:
    """The finished stages of every seed and of the tuning. seconds: of this run; reused: stages that were on disk."""

    recipe: ExperimentRecipe
    stores: dict[Part, Store]
    seconds: float
    reused: int
    jobs: int


def run_stages(
    recipe: ExperimentRecipe,
    *,
    seeds: tuple[int, ...],
    out: Path,
    jobs: int | None = None,
    cache_dir: Path | None = None,
    on_stage: OnStage | None = None,
) -> Experiment:
    """Run what is not done yet of the stages of `seeds`; `jobs` at a time (default: as many as cores).

    Raises ConfigError, StoreError, CorruptError for a damaged file of a stage, and what a stage raises; what was done
    by then stays done.
    """
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ConfigError(f"an experiment needs different seeds of 0 or more, got {seeds}")
    jobs = jobs or len(os.sched_getaffinity(0))
    start = time.monotonic()
    parts: list[Part] = [*([TUNING] if recipe.tuning is not None else []), *seeds]
    stores = {part: open_store(out, recipe, part, cache_dir) for part in parts}
    waiting = {(part, name): None for part in parts for name in stores[part].stages}
    total = len(waiting)
    done = {(part, name) for part, name in waiting if stores[part].done(name)}
    for task in done:
        del waiting[task]
    reused = len(done)

    def tell(part: Part, name: str, seconds: float) -> None:
        done.add((part, name))
        if on_stage is not None:
            on_stage(len(done), total, part, name, seconds)

    def ready() -> Iterator[tuple[Part, str]]:
        for part, name in list(waiting):
            if all((part, given) in done for given in stores[part].stages[name].inputs):
                del waiting[part, name]
                yield part, name

    if jobs == 1 or len(waiting) < 2:
        with _one_thread():
            while waiting:
                for part, name in ready():
                    began = time.monotonic()
                    stores[part].compute(name)
                    tell(part, name, time.monotonic() - began)
    else:
        _in_processes(recipe, out, cache_dir, jobs, waiting, ready, tell)
    return Experiment(recipe, stores, time.monotonic() - start, reused, jobs)


def _in_processes(
    recipe: ExperimentRecipe,
    out: Path,
    cache_dir: Path | None,
    jobs: int,
    waiting: dict[tuple[Part, str], None],
    ready: Callable[[], Iterator[tuple[Part, str]]],
    tell: Callable[[Part, str, float], None],
) -> None:
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare)
    running: dict[Future[float], tuple[Part, str]] = {}
    try:
        while waiting or running:
            for part, name in ready():
                running[pool.submit(_compute, recipe.to_yaml(), part, name, out, cache_dir)] = part, name
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                part, name = running.pop(future)
                tell(part, name, future.result())
    except BrokenProcessPool as error:
        raise FctError(
            "a process that computed a stage was ended from outside (out of memory?); run again to go on, or with "
            "fewer jobs"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare() -> None:
    """What a process of the pool does first."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's process would wait for ever for one that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _compute(recipe: str, part: Part, name: str, out: Path, cache_dir: Path | None) -> float:
    """One stage, in a process of the pool; the seconds that it took."""
    start = time.monotonic()
    open_store(out, ExperimentRecipe.from_yaml(recipe), part, cache_dir).compute(name)
    return time.monotonic() - start


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
