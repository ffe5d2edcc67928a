"""The slow peers: torch.compile with max-autotune, and search libraries where they are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.chains import inputs, spec_of
from benchmarks.gpu.measure import record, timed
from benchmarks.gpu.time_search import DIM, QUERIES
from benchmarks.gpu.time_upgrade import LARGE, SMALL, _module
from fct_fast import Upgrader, topk
from fct_fast.bench import folded_chain

ROWS = 2_000_000  # FAISS and cuVS hold float32 copies


def upgrade() -> list[dict[str, Any]]:
    found = []
    for dims, n in ((LARGE, 262144), (SMALL, 1 << 20)):
        spec = spec_of(_module(dims))
        rows = inputs(n, *dims[:2], dtype=torch.half)
        tuned = torch.compile(folded_chain(spec, torch.float16, "cuda"), mode="max-autotune", dynamic=False)
        up = Upgrader(spec, device="cuda", scale_check="off")
        out = torch.empty(n, spec.new_dim, device="cuda")

        def theirs(tuned: Any = tuned, rows: Any = rows) -> None:
            with torch.inference_mode():
                tuned(*rows)

        def ours(up: Any = up, rows: Any = rows, out: Any = out) -> None:
            up(*rows, out=out, nonfinite="flag")

        timings = timed({"fct_fast fp16": ours, "torch.compile, max-autotune": theirs})
        times = timings["torch.compile, max-autotune"]["median_ms"] / timings["fct_fast fp16"]["median_ms"]
        setting = {"dims": "{}+{}->{}->{}".format(*dims), "rows": n}
        found.append(record("upgrade", setting, timings, {"times torch.compile, max-autotune": times}))
    return found


def search() -> list[dict[str, Any]]:
    queries, gallery = (torch.nn.functional.normalize(torch.randn(n, DIM, device="cuda")) for n in (QUERIES, ROWS))
    half = gallery.half(), queries.half()
    makers: dict[str, Callable[[torch.Tensor], Callable[[int], object]]] = {"faiss": _faiss, "cuvs": _cuvs}
    peers, missing = {}, []
    for name, make in makers.items():
        try:
            peers[name] = make(gallery)
        except (ImportError, AttributeError) as reason:
            missing.append(f"{name}: {reason}")
    found = []
    for k in (10, 100):
        contenders: dict[str, Callable[[], object]] = {
            "fct_fast, fp16 rows": lambda k=k: topk(half[1], half[0], k, "ip"),
            "fct_fast, float32 rows": lambda k=k: topk(queries, gallery, k, "ip"),
        }
        for name, run in peers.items():
            contenders[f"{name}, float32 rows"] = lambda run=run, k=k: run(queries, k)
        timings = timed(contenders, rounds=7, warmups=1)
        ours = timings["fct_fast, float32 rows"]["median_ms"]
        figures: dict[str, Any] = {
            f"times {who}": t["median_ms"] / ours for who, t in timings.items() if not who.startswith("fct_fast")
        }
        figures |= {"not measured": "; ".join(missing)} if missing else {}
        found.append(record("top-k", {"queries": QUERIES, "rows": ROWS, "dim": DIM, "k": k}, timings, figures))
    return found


def _faiss(gallery: torch.Tensor) -> Callable[[torch.Tensor, int], object]:
    faiss = importlib.import_module("faiss")
    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), DIM)
    importlib.import_module("faiss.contrib.torch_utils")
    index.add(gallery)
    return lambda queries, k: index.search(queries, k)


def _cuvs(gallery: torch.Tensor) -> Callable[[torch.Tensor, int], object]:
    brute_force = importlib.import_module("cuvs.neighbors.brute_force")
    index = brute_force.build(gallery, metric="inner_product")
    return lambda queries, k: brute_force.search(index, queries, k)
