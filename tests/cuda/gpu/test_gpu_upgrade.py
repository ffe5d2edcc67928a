"""The upgrade on a GPU: float64 over a grid of dims, host against device, bad rows, memory, Ctrl-C, other libraries."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest
import torch
from gpu_support import BOUNDS, gpu_tests, inputs_of, relative_error, spec_of

from fct_fast import Upgrader, errors
from fct_fast.kernels import cuda as cuda_room

pytestmark = gpu_tests

DIMS = [
    (3, 1, 100, 20),
    (7, 3, 40, 9),
    (16, 16, 64, 16),
    (19, 7, 45, 23),
    (32, 32, 128, 32),
    (33, 0, 70, 17),
    (64, 64, 512, 64),
    (100, 50, 300, 77),
    (128, 128, 2048, 128),
    (512, 0, 1024, 512),
    (768, 64, 2048, 1024),
    (2048, 128, 2048, 2048),
]
ROWS = [1, 2, 127, 128, 129, 1000]


def on_gpu(x: np.ndarray | None) -> torch.Tensor | None:
    return None if x is None else torch.from_numpy(x).cuda()


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("dims", DIMS, ids=lambda dims: "-".join(map(str, dims)))
def test_float64_over_the_grid(dims, precision):
    spec = spec_of(*dims)
    up = Upgrader(spec, device="cuda", precision=precision)
    for n in ROWS:
        old, side = inputs_of(spec, n, offset=n)
        out = torch.full((n, spec.new_dim), float("nan"), device="cuda")  # every value must be written
        assert up(on_gpu(old), on_gpu(side), out=out) is out
        got = out.cpu().numpy()
        # The promise is for a set of rows; a lone row of a small random h may be ill-conditioned.
        room = 1 if n > 100 else 5
        assert relative_error(got, spec.apply_float64(old, side)) <= room * BOUNDS[precision], n
        assert np.abs(np.linalg.norm(got.astype(np.float64), axis=1) - 1).max() <= 2e-7


@pytest.mark.parametrize("dims", DIMS, ids=lambda dims: "-".join(map(str, dims)))
def test_int8_gives_the_cpus_bits(dims):
    spec = spec_of(*dims, uncertainty=True)
    calibration = inputs_of(spec, 500, offset=7)
    up = Upgrader(spec, device="cuda", precision="int8", calibration=calibration)
    cpu = Upgrader(spec, precision="int8", calibration=calibration)
    for n in ROWS:
        old, side = inputs_of(spec, n, offset=n)
        want, s = cpu(old, side, return_uncertainty=True)
        for ways in (lambda x: x, on_gpu):
            new, found = (torch.as_tensor(x).cpu() for x in up(ways(old), ways(side), return_uncertainty=True))
            np.testing.assert_array_equal(new, want)
            np.testing.assert_array_equal(found, s)


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("out_dtype", ["float32", "float16"])
def test_host_arrays_give_the_bits_of_tensors(precision, out_dtype):
    spec = spec_of(100, 50, 300, 77, uncertainty=True)
    up = Upgrader(spec, device="cuda", precision=precision)
    for n in (1, 129, 16384, 70001):  # one chunk, and many
        old, side = inputs_of(spec, n)
        host, s = up(old, side, out_dtype=out_dtype, return_uncertainty=True)
        there, s_there = up(on_gpu(old), on_gpu(side), out_dtype=getattr(torch, out_dtype), return_uncertainty=True)
        assert isinstance(host, np.ndarray)
        np.testing.assert_array_equal(host, there.cpu().numpy())
        np.testing.assert_array_equal(s, s_there.cpu().numpy())


def test_pinned_and_strided_rows_of_the_host_give_the_same_bits():
    spec = spec_of(64, 64, 512, 64)
    up = Upgrader(spec, device="cuda")
    old, side = inputs_of(spec, 50000)
    want = up(old, side)
    pinned = [torch.from_numpy(x).pin_memory() for x in (old, side)]
    out = torch.full((50000, 64), float("nan")).pin_memory()
    up(*pinned, out=out)
    np.testing.assert_array_equal(out.numpy(), want)
    halves = [x.half() for x in pinned]
    half_pinned = [x.pin_memory() for x in halves]
    np.testing.assert_array_equal(up(*half_pinned).numpy(), up(*[x.numpy() for x in halves]))
    wide = np.zeros((50000, 80), np.float32)
    wide[:, 8:72] = old
    np.testing.assert_array_equal(up(wide[:, 8:72], side), want)
    np.testing.assert_array_equal(up(old[::-1], side[::-1])[::-1], want)


@pytest.mark.parametrize("precision", BOUNDS)
def test_bad_rows_are_found_and_zeroed_on_both_ways(precision):
    spec = spec_of(24, 8, 48, 10, uncertainty=True)
    up = Upgrader(spec, device="cuda", precision=precision)
    old, side = inputs_of(spec, 40000)
    clean, _, _ = up(old, side, nonfinite="flag", return_uncertainty=True)
    bad = np.zeros(40000, bool)
    for row in (0, 17, 16384, 39999):
        old[row, row % 24] = np.nan
        bad[row] = True
    side[20000, 3], bad[20000] = -np.inf, True
    old[31000, 5] = 3e38  # finite; leaves the range of every 16-bit activation, and of float32 in the layers
    for ways in (lambda x: x, on_gpu):
        new, s, found = up(ways(old), ways(side), nonfinite="flag", return_uncertainty=True)
        new, s, found = (np.asarray(x.cpu() if isinstance(x, torch.Tensor) else x) for x in (new, s, found))
        others = np.flatnonzero(~bad & (np.arange(40000) != 31000))
        assert found[bad].all()
        assert not found[others].any()
        assert not new[found].any()
        assert not s[found].any()
        np.testing.assert_array_equal(new[others], clean[others])
    with pytest.raises(errors.NonFiniteError, match="row 0 of old or side holds NaN"):
        up(old, side)


def test_a_row_beyond_float16_is_computed_again_in_float32():
    spec = spec_of(24, 8, 48, 10)
    old, side = inputs_of(spec, 300)
    old[123] *= 1e6
    wide = Upgrader(spec, device="cuda", precision="fp32")(old, side)
    for ways in (lambda x: x, on_gpu):
        new = Upgrader(spec, device="cuda", precision="fp16")(ways(old), ways(side))
        np.testing.assert_array_equal(np.asarray(new.cpu() if isinstance(new, torch.Tensor) else new)[123], wide[123])


def test_memory_that_runs_short_makes_smaller_chunks_and_says_so():
    spec = spec_of(128, 128, 2048, 128)
    up = Upgrader(spec, device="cuda")
    old, side = inputs_of(spec, 100000)
    tensors = on_gpu(old), on_gpu(side)
    want = up(*tensors)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    out = torch.empty_like(want)
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(free - (600 << 20), dtype=torch.uint8, device="cuda")
    try:
        with pytest.warns(RuntimeWarning, match="short of memory: rows went in chunks of"):
            up(*tensors, out=out)
    finally:
        del hog
    assert torch.equal(out, want)


def test_a_small_scratch_changes_no_bit(monkeypatch):
    spec = spec_of(64, 64, 512, 64)
    old, side = inputs_of(spec, 30000)
    up = Upgrader(spec, device="cuda")
    want = up(old, side)
    monkeypatch.setattr(cuda_room, "_SCRATCH_BYTES", 8 << 20)
    np.testing.assert_array_equal(up(old, side), want)
    np.testing.assert_array_equal(up(on_gpu(old), on_gpu(side)).cpu().numpy(), want)


def test_ctrl_c_ends_a_long_call_on_the_host():
    spec = spec_of(256, 256, 2048, 256)
    up = Upgrader(spec, device="cuda", precision="fp32")
    old, side = np.zeros((1, 256), np.float32), np.zeros((1, 256), np.float32)
    long_old, long_side = (np.broadcast_to(x, (3_000_000, 256)) for x in (old, side))
    up(old, side, nonfinite="flag")
    sent: list[float] = []

    def send() -> None:
        sent.append(time.perf_counter())
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(0.5, send)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        up(long_old, long_side, nonfinite="flag")
    assert time.perf_counter() - sent[0] < 0.2
    assert up(old, side, nonfinite="flag")[0].shape == (1, 256)  # and the next call works


def test_calls_from_several_threads():
    spec = spec_of(64, 64, 512, 64)
    up = Upgrader(spec, device="cuda")
    parts = [inputs_of(spec, 40000, offset=10 * i) for i in range(4)]
    want = [up(*part) for part in parts]
    got: list[np.ndarray | None] = [None] * 4

    def work(i: int) -> None:
        for _ in range(3):
            got[i] = up(*parts[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        np.testing.assert_array_equal(got[i], want[i])


def test_the_work_is_queued_on_torchs_stream():
    spec = spec_of(128, 128, 512, 128)
    up = Upgrader(spec, device="cuda")
    old, side = (on_gpu(x) for x in inputs_of(spec, 20000))
    want = up(old, side)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = torch.empty_like(old)
        torch.cuda._sleep(50_000_000)
        late.copy_(old)
        new, _ = up(late, side, nonfinite="flag")
    stream.synchronize()
    assert torch.equal(new, want)


def test_strange_layouts_of_the_device():
    spec = spec_of(19, 7, 45, 23)
    up = Upgrader(spec, device="cuda")
    old, side = (on_gpu(x) for x in inputs_of(spec, 500))
    want = up(old, side)
    wide = torch.zeros((500, 40), device="cuda")
    wide[:, 3:22] = old
    assert torch.equal(up(wide[:, 3:22], side), want)
    assert torch.equal(up(torch.stack([old, old], 1).view(1000, 19)[::2], side), want)
    with pytest.raises(errors.ShapeError, match="out shares memory with old"):
        up(old[:300], side[:300], out=old.view(-1)[: 300 * 23].view(300, 23))


def test_tensors_of_the_cpu_and_of_the_gpu_do_not_mix():
    spec = spec_of(16, 16, 64, 16)
    old, side = inputs_of(spec, 10)
    with pytest.raises(errors.DtypeError, match="is on cuda:0, but this computes on the device 'cpu'"):
        Upgrader(spec)(on_gpu(old), on_gpu(side))
    with pytest.raises(errors.FctError):
        Upgrader(spec, device="cuda")(on_gpu(old), torch.from_numpy(side))


def test_cupy_in_cupy_out():
    cupy = pytest.importorskip("cupy")
    spec = spec_of(32, 32, 128, 32)
    up = Upgrader(spec, device="cuda")
    old, side = inputs_of(spec, 1000)
    new = up(cupy.asarray(old), cupy.asarray(side))
    assert isinstance(new, cupy.ndarray)
    np.testing.assert_array_equal(cupy.asnumpy(new), up(old, side))


def test_torch_compile_sees_the_operator():
    spec = spec_of(32, 32, 128, 32)
    up = Upgrader(spec, device="cuda")
    old, side = (on_gpu(x) for x in inputs_of(spec, 300))
    compiled = torch.compile(lambda old, side: up(old * 1.0, side).sum(dim=1), fullgraph=True)
    torch.testing.assert_close(compiled(old, side), up(old, side).sum(dim=1))


def test_a_used_up_device_leaves_the_cpu_alone():
    spec = spec_of(16, 16, 64, 16)
    old, side = inputs_of(spec, 100)
    with pytest.raises(errors.DeviceError, match="cannot be used"):
        Upgrader(spec, device=f"cuda:{torch.cuda.device_count()}")
    assert relative_error(Upgrader(spec)(old, side), spec.apply_float64(old, side)) < 2e-6


def test_rows_of_each_input_type():
    spec = spec_of(33, 7, 70, 17)
    up = Upgrader(spec, device="cuda", precision="bf16")
    old, side = (torch.from_numpy(x) for x in inputs_of(spec, 20000))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        narrow = [x.to(dtype) for x in (old, side)]
        want = spec.apply_float64(*(x.float().numpy() for x in narrow))
        for ways in (lambda x: x, lambda x: x.cuda()):
            new = up(*[ways(x) for x in narrow])
            assert relative_error(new.float().cpu().numpy(), want) <= BOUNDS["bf16"]
