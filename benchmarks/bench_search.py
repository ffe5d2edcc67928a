"""topk beside faiss-cpu's exact index and torch's matmul + topk in chunks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import torch

from benchmarks.harness import Record
from fct_fast import prepare_gallery, topk
from fct_fast.bench import take_turns, torch_topk
from fct_fast.kernels import usable_threads


def memory_reader(array: np.ndarray, threads: int):
    """Reads all of an array on so many threads and does next to nothing with it: the bandwidth there is."""
    parts = np.array_split(array.reshape(-1), threads)
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.max, parts))


def search_record(nq: int, n: int, dim: int, k: int) -> Record:
    rng = np.random.default_rng(0)
    queries, gallery = (rng.standard_normal((rows, dim), dtype=np.float32) for rows in (nq, n))
    faiss.omp_set_num_threads(usable_threads(None))
    index = faiss.IndexFlatIP(dim)
    index.add(gallery)
    prepared, coarse = (prepare_gallery(gallery, "ip", precision=precision) for precision in ("fp32", "int8"))
    tensors = torch.from_numpy(queries), torch.from_numpy(gallery)
    # The same rows; near ties may change places, since faiss sums in another order.
    ours, theirs = topk(queries, gallery, k, metric="ip")[1], index.search(queries, k)[1]
    assert np.mean([len(np.intersect1d(a, b)) for a, b in zip(ours, theirs, strict=True)]) > 0.999 * k
    record = Record(f"topk, {nq} queries x {n} x {dim}, k = {k}", {"threads": usable_threads(None)})
    record.timings = take_turns(
        {
            "fct_fast": lambda: topk(queries, gallery, k, metric="ip"),
            "fct_fast, prepared": lambda: topk(queries, prepared, k, metric="ip"),
            "fct_fast int8, prepared": lambda: topk(queries, coarse, k, metric="ip"),
            "faiss-cpu IndexFlatIP": lambda: index.search(queries, k),
            "torch matmul + topk": lambda: torch_topk(*tensors, k),
            "reading the gallery": memory_reader(gallery, usable_threads(None)),
        },
        rounds=3 if nq > 16 else 9,
    )
    median = {name: timing.median_s for name, timing in record.timings.items()}
    record.figures = {
        "GFLOP/s": 2 * nq * n * dim / median["fct_fast"] / 1e9,
        "times faiss-cpu": median["faiss-cpu IndexFlatIP"] / median["fct_fast"],
        "times torch": median["torch matmul + topk"] / median["fct_fast"],
        "prepared, times faiss-cpu": median["faiss-cpu IndexFlatIP"] / median["fct_fast, prepared"],
        "int8, times faiss-cpu": median["faiss-cpu IndexFlatIP"] / median["fct_fast int8, prepared"],
        "int8, times fp32 prepared": median["fct_fast, prepared"] / median["fct_fast int8, prepared"],
        "gallery GB/s": gallery.nbytes / median["fct_fast"] / 1e9,
        "gallery GB/s, prepared": gallery.nbytes / median["fct_fast, prepared"] / 1e9,
        "share of reading": median["reading the gallery"] / median["fct_fast"],
        "share of reading, prepared": median["reading the gallery"] / median["fct_fast, prepared"],
    }
    return record


def records() -> list[Record]:
    return [search_record(nq, 1_000_000, 128, k) for nq, k in ((1, 10), (16, 100), (256, 10), (256, 1000))]
