"""evaluate on a GPU, as far as it goes without one: what is refused, and what the kernels are given. The CUDA rank is
stood in for by the CPU's, the device by the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fct_fast import errors, evaluate
from fct_fast.evaluation import rank as rank_room
from fct_fast.kernels import cuda_rank, native, resolve_level
from fct_fast.kernels.cuda import SWITCH


class OnAGpu:
    """An array of another library on CUDA device 1, as far as DLPack tells."""

    shape = (4, 3)

    def __dlpack_device__(self):
        return (2, 1)

    def __dlpack__(self, **_):
        raise BufferError("no such device")


@pytest.fixture
def calls(monkeypatch):
    seen = []

    def stand_in(device, queries, gallery, metric, *rest):
        *tables, scratch, stream = rest
        seen.append((device, queries, gallery, scratch, stream))
        native().rank(resolve_level(), queries, gallery, metric, *tables, 1)
        return scratch

    monkeypatch.setattr(native(), "cuda_rank", stand_in)
    monkeypatch.setattr(rank_room, "cuda_device", lambda name: 0)
    on_device = cuda_rank.rank_on_device
    monkeypatch.setattr(cuda_rank, "rank_on_device", lambda *given: on_device(*given[:-1], "cpu"))
    return seen


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_arrays_of_the_host_give_the_cpus_answer(calls, metric, dtype):
    rng = np.random.default_rng(1)
    gallery = rng.standard_normal((90, 8)).astype(dtype)
    labels = rng.integers(0, 9, 90)
    got = evaluate(gallery, gallery, labels, metric=metric, device="cuda")
    want = evaluate(gallery, gallery, labels, metric=metric, device="cpu")
    np.testing.assert_array_equal(got.first_rank, want.first_rank)
    np.testing.assert_array_equal(got.average_precision, want.average_precision)
    assert (got.cmc, got.map, got.queries, got.skipped) == (want.cmc, want.map, want.queries, want.skipped)
    ((device, queries, rows, scratch, _),) = calls
    assert device == 0
    assert scratch > 0
    assert isinstance(queries, torch.Tensor)
    assert queries is rows  # sent once


def test_rows_of_a_tensor_are_checked_on_its_device(calls):
    rows = torch.ones(6, 3, dtype=torch.bfloat16)
    rows[4, 1] = float("inf")
    with pytest.raises(errors.NonFiniteError, match="row 4 of gallery holds NaN or Inf"):
        evaluate(rows[:2], rows, [0, 1], [0, 1, 0, 1, 0, 1], device="cuda")
    assert not calls


def test_memory_that_runs_out_is_a_sentence(calls, monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cuda_rank, "on_device", full)
    with pytest.raises(errors.DeviceError, match=r"queries \[4, 3\] and gallery \[4, 3\] do not fit"):
        evaluate(np.eye(4, 3, dtype=np.float32), np.eye(4, 3, dtype=np.float32), [0, 0, 1, 1], device="cuda")


class TestRefusals:
    rows = np.eye(4, 3, dtype=np.float32)

    def test_off_by_default(self, monkeypatch):
        monkeypatch.delenv(SWITCH, raising=False)
        with pytest.raises(errors.DeviceError, match="device 'cuda' cannot be used: no CUDA kernel .* has run"):
            evaluate(self.rows, self.rows, [0, 0, 1, 1], device="cuda")
        with pytest.raises(errors.DeviceError, match="device 'cuda:1' cannot be used"):
            evaluate(self.rows, OnAGpu(), [0, 0, 1, 1])

    def test_other_names_and_places(self):
        with pytest.raises(errors.ConfigError, match="device is 'gpu'"):
            evaluate(self.rows, self.rows, [0, 0, 1, 1], device="gpu")
        with pytest.raises(errors.DtypeError, match="gallery is on cuda:1, but this computes on the device 'cpu'"):
            evaluate(self.rows, OnAGpu(), [0, 0, 1, 1], device="cpu")

    def test_the_kernels_are_given_sound_tables_or_nothing(self):
        """The binding of the CUDA library checks them as the CPU's does; without a library it says so first."""
        tables = np.zeros(4, np.int64), np.array([0, 4]), np.array([1, 0, 2, 3])
        ranks = np.empty(4, np.int64), np.empty(4), np.empty(4, np.int64)
        with pytest.raises(errors.ShapeError, match="class table"):
            native().rank(resolve_level(), self.rows, self.rows, "ip", *tables, False, *ranks, 1)
