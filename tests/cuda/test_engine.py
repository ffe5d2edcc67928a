"""What surrounds the CUDA kernels in Python, on a machine without a GPU: the kernels are stood in for by the CPU's, so that
the second try in float32, the warnings, the choice of kernels and a backfill's key are the real code."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import fct_fast
from fct_fast import Upgrader, errors
from fct_fast.kernels import native, ops, resolve_level
from fct_fast.kernels.cuda import JOB_ROWS, SWITCH
from fct_fast.kernels.packing import pack_spec
from fct_fast.kernels.status import OVERFLOW

STATE = {
    "devices": [{"device": i, "name": "G", "compute": 90, "multiprocessors": 1} for i in (0, 1)],
    "problem": "",
}


class StandIn:
    """native().CudaUpgrade by the CPU kernel. In fp16 a row with a value beyond 65504 is an overflow."""

    made: list[StandIn]
    chunk = 100

    def __init__(self, old_dim, side_dim, new_dim, normalize, uncertainty, precision, branches, trunk, device):
        numbers = (old_dim, side_dim, new_dim, normalize, uncertainty)
        self._packed = native().pack(*numbers, "fp32", branches, trunk, lambda size: np.empty(size, np.uint8))
        self.precision, self.device, self.calls = precision, device, []
        StandIn.made.append(self)

    def run(self, old, side, out, s, status, scratch_limit, stream, threads, like_rows):
        self.calls.append({"rows": len(old), "stream": stream, "threads": threads, "like_rows": like_rows})
        native().upgrade(self._packed, resolve_level(), old, side, out, s, status, 1)
        if self.precision == "fp16":
            wide = np.abs(np.asarray(old)).max(axis=1) > 65504
            np.asarray(out)[wide] = 0
            np.asarray(status)[wide] = OVERFLOW
        return self.chunk, 100

    def family(self, rows):
        return "layers" if rows > 1000 else "layers small:0"

    def plan(self, rows, scratch_limit):
        return ""


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    StandIn.made = []
    monkeypatch.setattr(StandIn, "chunk", 100)
    monkeypatch.setenv(SWITCH, "1")
    monkeypatch.setattr(native(), "cuda_state", lambda: STATE)
    monkeypatch.setattr(native(), "CudaUpgrade", StandIn)
    return StandIn


@pytest.fixture
def inputs(rows):
    return rows(60, 12), rows(60, 5, 1)


def test_host_arrays_by_the_stand_in(small_spec, inputs):
    up = Upgrader(small_spec, device="cuda:1", threads=3)
    new = up(*inputs)
    np.testing.assert_array_equal(new, Upgrader(small_spec)(*inputs))
    (kernel,) = StandIn.made
    assert (kernel.device, kernel.precision) == (1, "fp16")
    assert kernel.calls == [{"rows": 60, "stream": None, "threads": 3, "like_rows": 0}]
    there = up(*[torch.from_numpy(x) for x in inputs])
    assert isinstance(there, torch.Tensor)
    np.testing.assert_array_equal(there, new)


def test_rows_beyond_float16_are_computed_again(small_spec, inputs):
    old, side = inputs
    old[7] *= 1e6
    old[31, 2] = 7e4
    new = Upgrader(small_spec, device="cuda")(old, side)
    np.testing.assert_array_equal(new, Upgrader(small_spec)(old, side))
    assert [(kernel.precision, [call["rows"] for call in kernel.calls]) for kernel in StandIn.made] == [
        ("fp16", [60]),
        ("fp32", [2]),
    ]


def test_smaller_chunks_than_planned_are_told(small_spec, inputs, monkeypatch):
    up = Upgrader(small_spec, device="cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        up(*inputs)
    monkeypatch.setattr(StandIn, "chunk", 25)
    with pytest.warns(RuntimeWarning, match="device 0 is short of memory: rows went in chunks of 25 instead of 100"):
        up(*inputs)


def test_out_dtypes_and_places(small_spec, inputs):
    up = Upgrader(small_spec, device="cuda")
    out = np.full((60, 8), np.nan, np.float16)
    assert up(*inputs, out=out) is out
    np.testing.assert_array_equal(out, Upgrader(small_spec)(*inputs, out_dtype="float16"))


class TestOperator:
    def test_cuda_tensors_run_by_the_engine_of_their_weights(self, small_spec, inputs):
        up = Upgrader(small_spec, device="cuda")
        packed = up._tensor_of_packed()
        old, side = (torch.from_numpy(x) for x in inputs)
        new, s, bad = ops.upgrade_cuda(packed, old, side, 8, torch.float32, False, True, "", 0)
        np.testing.assert_array_equal(new, up(*inputs))
        assert s.shape == (0,)
        assert not bad.any()
        old[3, 1] = float("nan")
        with pytest.raises(errors.NonFiniteError, match="row 3 "):
            ops.upgrade_cuda(packed, old, side, 8, torch.float32, False, True, "", 0)
        assert ops.upgrade_cuda(packed, old, side, 8, torch.float32, False, False, "", 0)[2].nonzero().tolist() == [[3]]

    def test_weights_of_no_engine_are_refused(self, small_spec, inputs):
        packed = torch.from_numpy(pack_spec(small_spec))
        with pytest.raises(errors.DeviceError, match="no Upgrader of this process holds on a GPU"):
            ops.upgrade_cuda(packed, torch.from_numpy(inputs[0]), None, 8, torch.float32, False, True, "", 0)


class TestBackfill:
    @pytest.fixture
    def source(self, inputs, tmp_path):
        for name, rows in zip(("old", "side"), inputs, strict=True):
            np.save(tmp_path / f"{name}.npy", rows)
        return {name: tmp_path / f"{name}.npy" for name in ("old", "side")}

    def test_the_key_names_device_kind_and_kernel_family(self, small_spec, source, tmp_path):
        up = Upgrader(small_spec, device="cuda:1")
        plan = fct_fast.plan_backfill(source, tmp_path / "new.npy", up).plan
        assert plan.fields["device"] == plan.device == "cuda"
        assert plan.fields["level"] == plan.level == "sm_90 layers"
        assert plan.fields["precision"] == "fp16"
        other = fct_fast.plan_backfill(source, tmp_path / "new.npy", Upgrader(small_spec, device="cuda:0")).plan
        assert other.key == plan.key  # any GPU of the kind goes on
        assert up.level != plan.level  # the caller's own Upgrader stays as it was

    def test_a_job_runs_by_one_kernel_family(self, small_spec, source, inputs, tmp_path):
        up = Upgrader(small_spec, device="cuda", precision="fp32")
        report = fct_fast.backfill(source, tmp_path / "new.npy", up, shard_rows=7)
        assert report.level == "sm_90 layers"
        assert {call["like_rows"] for kernel in StandIn.made for call in kernel.calls} == {JOB_ROWS}
        np.testing.assert_array_equal(np.load(tmp_path / "new.npy"), Upgrader(small_spec)(*inputs))

    def test_a_job_is_not_resumed_elsewhere(self, small_spec, source, tmp_path, monkeypatch):
        up = Upgrader(small_spec, device="cuda", precision="fp32")
        fct_fast.backfill(source, tmp_path / "new.npy", up)
        with pytest.raises(errors.LedgerMismatch, match="device was cuda and is cpu"):
            fct_fast.backfill(source, tmp_path / "new.npy", Upgrader(small_spec, precision="fp32"))
        monkeypatch.setattr(StandIn, "family", lambda self, rows: "fused")
        with pytest.raises(errors.LedgerMismatch, match="level was sm_90 layers and is sm_90 fused"):
            fct_fast.backfill(source, tmp_path / "new.npy", up)
