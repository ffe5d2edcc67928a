"""Search beside what a user could run instead: torch's matmul + topk, and faiss-cpu where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from fct_fast.bench.turns import take_turns
from fct_fast.kernels import usable_threads
from fct_fast.search import prepare_gallery, topk

__all__ = ["SearchSpeed", "measure_search", "torch_topk"]

F32 = npt.NDArray[np.float32]

_CHUNKS = (8192, 32768)
_MANY_QUERIES, _FEW_ROUNDS, _ROUNDS = 64, 3, 9


@dataclass(frozen=True)
class SearchSpeed:
    """Median seconds of one search by inner product, of a gallery that was prepared before."""

    precision: str
    queries: int
    rows: int
    dim: int
    k: int
    seconds: float
    peers: dict[str, float] = field(default_factory=dict)
    """Seconds of the others for the same search."""

    @property
    def queries_per_s(self) -> float:
        return self.queries / self.seconds


def measure_search(
    queries: Sequence[int], rows: int, dim: int, k: int, *, threads: int | None = None
) -> list[SearchSpeed]:
    """fp32 and int8 (the same answer) at each number of queries over random rows, on the CPU.

    Raises ShapeError where k is larger than rows.
    """
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((rows, dim), dtype=np.float32)
    prepared = {name: prepare_gallery(gallery, "ip", precision=name, threads=threads) for name in ("fp32", "int8")}
    count = usable_threads(threads)
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(count)
    faiss_run = _faiss_search(gallery, count)
    found = []
    try:
        for n in queries:
            asked = rng.standard_normal((n, dim), dtype=np.float32)
            contenders: dict[str, Callable[[], object]] = {
                name: partial(topk, asked, packed, k, metric="ip", threads=threads) for name, packed in prepared.items()
            }
            for chunk in _CHUNKS:
                contenders[f"torch {chunk}"] = partial(
                    torch_topk, torch.from_numpy(asked), torch.from_numpy(gallery), k, chunk
                )
            if faiss_run is not None:
                contenders["faiss"] = partial(faiss_run, asked, k)
            timings = take_turns(contenders, _FEW_ROUNDS if n >= _MANY_QUERIES else _ROUNDS)
            seconds = {name: timing.median_s for name, timing in timings.items()}
            peers = {"torch": min(seconds[f"torch {chunk}"] for chunk in _CHUNKS)}
            if "faiss" in seconds:
                peers["faiss"] = seconds["faiss"]
            found += [SearchSpeed(name, n, rows, dim, k, seconds[name], peers) for name in prepared]
    finally:
        torch.set_num_threads(torch_threads)
    return found


def torch_topk(
    queries: torch.Tensor, gallery: torch.Tensor, k: int, chunk: int = 32768
) -> tuple[torch.Tensor, torch.Tensor]:
    """(scores, ids) in chunks of the gallery, so that the score matrix stays small; merged at the end."""
    scores, ids = [], []
    for start in range(0, len(gallery), chunk):
        part = gallery[start : start + chunk]
        values, places = torch.topk(queries @ part.T, min(k, len(part)))
        scores.append(values)
        ids.append(places + start)
    best = torch.topk(torch.cat(scores, 1), k)
    return best.values, torch.gather(torch.cat(ids, 1), 1, best.indices)


def _faiss_search(gallery: F32, threads: int) -> Callable[[F32, int], object] | None:
    if importlib.util.find_spec("faiss") is None:
        return None
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    return lambda queries, k: index.search(queries, k)
