"""What is measured is what was asked for: the precisions, batch sizes and searches, each beside its peers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fct_fast.bench import (
    compare_upgrade,
    measure_search,
    measure_upgrade,
    random_transform,
    torch_topk,
    usable_precisions,
)
from fct_fast.errors import ConfigError, DeviceError, ShapeError
from fct_fast.search import topk
from fct_fast.upgrader import Upgrader


def test_every_usable_precision_can_be_measured() -> None:
    spec = random_transform(8, 4, 16, 6)
    assert {"fp32", "int8"} <= set(usable_precisions())
    for precision in usable_precisions():
        few, many = measure_upgrade(spec, precision, (1, 4096), threads=1)
        assert (few.precision, few.rows, many.rows) == (precision, 1, 4096)
        assert few.peak_share is None  # says nothing for one row
        assert many.peak_share is not None
        assert 0 < many.peak_share < 1.5
        assert few.seconds > 0
        assert few.torch_seconds > 0
        assert many.flops_per_s == pytest.approx(4096 * spec.flops_per_row / many.seconds)
        assert many.times_torch == pytest.approx(many.torch_seconds / many.seconds)


def test_the_same_h_every_time_and_no_trace_in_the_callers_generator() -> None:
    torch.manual_seed(5)
    first = random_transform(8, 4, 16, 6)
    drawn = torch.rand(3)
    second = random_transform(8, 4, 16, 6)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    for (_, a), (_, b) in zip(first.named_layers(), second.named_layers(), strict=True):
        np.testing.assert_array_equal(a.weight, b.weight)


def test_torch_threads_are_the_callers_again() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    measure_upgrade(random_transform(4, 0, 8, 4), "fp32", (1,), threads=1)
    measure_search((1,), 50, 4, 2, threads=1)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_given_rows_are_compared_as_often_as_it_takes() -> None:
    rng = np.random.default_rng(0)
    up = Upgrader(random_transform(12, 7, 20, 10))
    kernel, in_torch = compare_upgrade(
        up, *(rng.standard_normal((50, dim)).astype(np.float32) for dim in (12, 7)), rows=5000
    )
    assert kernel > 0
    assert in_torch > 0


def test_searches_beside_torch_and_faiss() -> None:
    found = measure_search((1, 3), 500, 16, 5, threads=1)
    assert [(x.precision, x.queries) for x in found] == [("fp32", 1), ("int8", 1), ("fp32", 3), ("int8", 3)]
    for speed in found:
        assert (speed.rows, speed.dim, speed.k) == (500, 16, 5)
        assert set(speed.peers) == {"torch", "faiss"}
        assert speed.queries_per_s == pytest.approx(speed.queries / speed.seconds)


@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_the_torch_search_is_exact(chunk: int) -> None:
    rng = np.random.default_rng(1)
    queries, gallery = (rng.standard_normal((n, 9), dtype=np.float32) for n in (4, 300))
    scores, ids = torch_topk(torch.from_numpy(queries), torch.from_numpy(gallery), 20, chunk)
    ours = topk(queries, gallery, 20, "ip")
    np.testing.assert_array_equal(ids.numpy(), ours[1])
    np.testing.assert_allclose(scores.numpy(), ours[0], rtol=1e-5)


def test_what_cannot_be_measured_is_refused() -> None:
    spec = random_transform(4, 0, 8, 4)
    with pytest.raises(ConfigError, match="precision"):
        measure_upgrade(spec, "fp8", (1,))
    with pytest.raises((DeviceError, ConfigError), match="cuda"):
        measure_upgrade(spec, "fp32", (1,), device="cuda:99")
    with pytest.raises(ShapeError, match="k"):
        measure_search((1,), 3, 4, 5)
