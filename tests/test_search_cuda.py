"""The search on a GPU, as far as it goes without one: what is refused, and the way of the rows. The CUDA top-k is stood in
for by the CPU's, the device by the CPU, so that pieces, carried results and places of answers are the real code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fct_fast import Upgrader, errors, prepare_gallery, topk
from fct_fast import search as search_room
from fct_fast.kernels import native, resolve_level
from fct_fast.kernels.arrays import as_rows, cuda_place, like, shared_tensor
from fct_fast.kernels.cuda import SWITCH
from fct_fast.kernels.cuda_search import fed


class OnAGpu:
    """An array of another library on CUDA device 1, as far as DLPack tells."""

    def __dlpack_device__(self):
        return (2, 1)

    def __dlpack__(self, **_):
        raise BufferError("no such device")


class CudaTopk:
    """native().cuda_topk by the CPU kernel; counts its calls."""

    def __init__(self):
        self.calls = []

    def __call__(
        self, device, queries, gallery, metric, k, first_id, seeded, coarse, scores, ids, scratch_limit, stream
    ):
        self.calls.append((first_id, int(gallery.shape[0]), seeded, coarse))
        native().topk(resolve_level(), queries, gallery, -1, metric, k, first_id, seeded, scores, ids, 1)
        return scratch_limit, 0


@pytest.fixture
def cuda_topk(monkeypatch):
    stand_in = CudaTopk()
    monkeypatch.setattr(native(), "cuda_topk", stand_in)
    return stand_in


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_host_arrays_go_in_pieces_and_give_the_whole_answer(rows, cuda_topk, monkeypatch, metric, kind, dtype):
    monkeypatch.setattr(search_room, "_CUDA_CHUNK_BYTES", 24 * 40)
    queries, gallery = kind(rows(5, 24)), kind(rows(333, 24, 1).astype(dtype))
    scores, ids = search_room._on_device(queries, [gallery], 7, metric, "cpu", "fp16", lambda _, parts: parts[0])
    assert type(scores) is type(queries)
    want = topk(queries, gallery, 7, metric)
    np.testing.assert_array_equal(scores, want[0])
    np.testing.assert_array_equal(ids, want[1])
    size = 10 if dtype == "float32" else 20
    assert cuda_topk.calls == [(start, min(size, 333 - start), start > 0, "fp16") for start in range(0, 333, size)]


def test_an_upgraded_gallery_goes_in_pieces(rows, cuda_topk, monkeypatch, make_transform):
    up = Upgrader(make_transform())
    monkeypatch.setattr(search_room, "_CUDA_CHUNK_BYTES", 4 * 12 * 50)
    queries, old, side = rows(4, 8), rows(170, 12, 1), rows(170, 5, 2)
    seen = []

    def upgraded(start, parts):
        seen.append((start, [tuple(part.shape) for part in parts]))
        return up(*parts)

    answer = search_room._on_device(queries, [old, side], 3, "cosine", "cpu", "fp32", upgraded, 8)
    want = topk(queries, up(old, side), 3)
    np.testing.assert_array_equal(answer[0], want[0])
    np.testing.assert_array_equal(answer[1], want[1])
    assert seen == [(start, [(n, 12), (n, 5)]) for start, n in ((0, 50), (50, 50), (100, 50), (150, 20))]


def test_a_chunk_holds_k_rows(rows, cuda_topk, monkeypatch):
    monkeypatch.setattr(search_room, "_CUDA_CHUNK_BYTES", 1)
    scores, _ = search_room._on_device(rows(2, 6), [rows(50, 6, 1)], 20, "ip", "cpu", "fp16", lambda _, parts: parts[0])
    assert scores.shape == (2, 20)
    assert [call[1] for call in cuda_topk.calls] == [20, 20, 10]


@pytest.mark.parametrize(("precision", "coarse"), [("auto", "fp16"), ("fp32", "fp32"), ("int8", "int8")])
def test_a_precision_names_the_scores_that_come_first(rows, cuda_topk, monkeypatch, precision, coarse):
    on_device = search_room._on_device
    monkeypatch.setattr(search_room, "cuda_device", lambda name: 0)
    monkeypatch.setattr(search_room, "as_rows", lambda x, name, device: x)
    monkeypatch.setattr(search_room, "_on_device", lambda *args: on_device(*args[:4], "cpu", *args[5:]))
    queries, gallery = rows(3, 6), rows(50, 6, 1)
    scores, ids = topk(queries, gallery, 5, "ip", precision, device="cuda")
    assert cuda_topk.calls == [(0, 50, False, coarse)]
    want = topk(queries, gallery, 5, "ip", device="cpu")
    np.testing.assert_array_equal(scores, want[0])
    np.testing.assert_array_equal(ids, want[1])
    with pytest.raises(errors.ConfigError, match="metrics 'cosine' and 'ip'"):
        topk(queries, gallery, 5, "l2", "int8", device="cuda")


def test_no_queries_ask_nothing_of_the_gpu(rows, cuda_topk):
    scores, ids = search_room._on_device(
        rows(0, 6), [rows(50, 6, 1)], 2, "ip", "cpu", "fp16", lambda _, parts: parts[0]
    )
    assert scores.shape == ids.shape == (0, 2)
    assert not cuda_topk.calls


def test_fed_chunks_are_the_rows_in_order_also_where_the_caller_stops(rows):
    a, b = rows(23, 3), torch.from_numpy(rows(23, 2, 1)).to(torch.bfloat16)
    a.flags.writeable = False
    chunks = [(start, [part.clone() for part in parts]) for start, parts in fed([a, b], 5, torch.device("cpu"))]
    assert [start for start, _ in chunks] == [0, 5, 10, 15, 20]
    np.testing.assert_array_equal(torch.cat([parts[0] for _, parts in chunks]), a)
    assert torch.equal(torch.cat([parts[1] for _, parts in chunks]), b)
    for start, _ in fed([a], 5, torch.device("cpu")):
        if start == 10:
            break
    assert list(fed([a[:0]], 5, torch.device("cpu"))) == []


class TestRefusals:
    def test_off_by_default(self, rows, monkeypatch):
        monkeypatch.delenv(SWITCH, raising=False)
        with pytest.raises(errors.DeviceError, match="device 'cuda' cannot be used: no CUDA kernel .* has run"):
            topk(rows(2, 4), rows(9, 4), 1, device="cuda")
        with pytest.raises(errors.ConfigError, match="device is 'gpu'"):
            topk(rows(2, 4), rows(9, 4), 1, device="gpu")

    def test_a_gpu_array_needs_the_switch(self, rows, monkeypatch):
        monkeypatch.delenv(SWITCH, raising=False)
        with pytest.raises(errors.DeviceError, match="device 'cuda:1' cannot be used"):
            topk(OnAGpu(), rows(9, 4), 1)

    def test_a_gpu_array_on_the_cpu_path(self, rows, make_transform):
        with pytest.raises(errors.DtypeError, match="gallery is on cuda:1, but this computes on the device 'cpu'"):
            topk(rows(2, 4), OnAGpu(), 1, device="cpu")
        with pytest.raises(errors.DtypeError, match="old is on cuda:1"):
            Upgrader(make_transform())(OnAGpu(), rows(1, 5))

    def test_arrays_of_another_gpu(self):
        with pytest.raises(errors.DtypeError, match="x is on cuda:1, but this computes on the device 'cuda:0'"):
            as_rows(OnAGpu(), "x", device="cuda:0")
        with pytest.raises(errors.DtypeError, match="x cannot be read through DLPack"):
            as_rows(OnAGpu(), "x", device="cuda:1")

    def test_a_prepared_gallery_is_of_the_cpu(self, rows, monkeypatch):
        monkeypatch.setattr(search_room, "cuda_device", lambda name: 0)
        with pytest.raises(errors.ConfigError, match="packed for the CPU"):
            topk(rows(2, 4), prepare_gallery(rows(9, 4)), 1, device="cuda")


class TestForeignArrays:
    def test_places(self):
        assert cuda_place(OnAGpu()) == "cuda:1"
        assert cuda_place(np.zeros(3)) is None
        assert cuda_place(torch.zeros(3)) is None
        assert cuda_place(object()) is None

    def test_results_go_back_to_the_library_that_asked(self):
        class Library:
            @staticmethod
            def from_dlpack(x):
                return ("theirs", x)

        class Theirs(OnAGpu):
            def __array_namespace__(self):
                return Library

        result = torch.ones(2)
        assert like(Theirs(), result) == ("theirs", result)
        assert like(OnAGpu(), result) is result  # no namespace
        assert like(np.zeros(1), result) is result
        assert like(torch.zeros(1), result) is result

    def test_host_arrays_are_left_alone(self):
        x = np.zeros(2)
        assert shared_tensor(x, "x") is x
