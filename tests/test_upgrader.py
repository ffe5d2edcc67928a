"""Upgrader: the numeric contract against float64, bits that depend on the row alone, and typed errors for bad input."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch

from fct_fast import Upgrader, errors
from fct_fast.kernels import native
from fct_fast.spec import Branch, Layer, TransformSpec

# DESIGN's dims, sampled so that each value appears, with every pair of the large ones left out.
SHAPES = [
    (16, 0, 64, 16),
    (17, 1, 100, 64),
    (64, 64, 512, 100),
    (100, 128, 64, 17),
    (128, 128, 2048, 128),
    (384, 1, 100, 384),
    (512, 64, 512, 768),
    (768, 0, 512, 512),
    (2048, 1024, 100, 2048),
    (128, 1024, 2048, 64),
]
# On both sides of what threads share by columns, in one block of rows or in several.
COUNTS = (0, 1, 2, 7, 65, 193, 400, 1000)


def pair(rows, n, old_dim, side_dim, seed=0):
    return rows(n, old_dim, seed), rows(n, side_dim, seed + 1) if side_dim else None


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fp32_contract_against_float64(shape, level, make_transform, rows):
    """Relative error of a row <= 1e-5, RMS <= 2e-6; unit norms to 2e-7; the same bits alone, in any batch, on any thread count."""
    old_dim, side_dim, inner_dim, new_dim = shape
    spec = make_transform(old_dim, new_dim, side_dim, inner_dim).to_spec()
    up = Upgrader(spec, level=level)
    old, side = pair(rows, max(COUNTS), old_dim, side_dim)
    want = spec.apply_float64(old, side)
    whole = up(old, side)
    error = np.linalg.norm(whole - want, axis=1)
    assert np.sqrt((error**2).mean()) <= 2e-6
    assert error.max() <= 1e-5
    assert np.abs(np.linalg.norm(whole.astype(np.float64), axis=1) - 1).max() <= 2e-7
    for n in COUNTS[:-1]:
        part = up(old[:n], None if side is None else side[:n])
        assert part.shape == (n, new_dim)
        assert part.dtype == np.float32
        assert part.tobytes() == whole[:n].tobytes(), f"other bits at n = {n}"
    for threads in (1, 3):
        assert Upgrader(spec, level=level, threads=threads)(old, side).tobytes() == whole.tobytes()


@pytest.mark.skipif(not native().has_bf16(""), reason="needs a CPU with AVX-512 BF16")
class TestBf16:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_contract_against_float64(self, shape, make_transform, rows):
        """Relative error of a row <= 1e-2 on random weights; unit norms; the same bits alone, in any batch, on any thread count."""
        old_dim, side_dim, inner_dim, new_dim = shape
        spec = make_transform(old_dim, new_dim, side_dim, inner_dim).to_spec()
        up = Upgrader(spec, precision="bf16")
        old, side = pair(rows, max(COUNTS), old_dim, side_dim)
        whole = up(old, side)
        error = np.linalg.norm(whole - spec.apply_float64(old, side), axis=1)
        assert np.sqrt((error**2).mean()) <= 1e-2
        assert error.max() > 1e-5, "this is not bf16"
        assert np.abs(np.linalg.norm(whole.astype(np.float64), axis=1) - 1).max() <= 2e-7
        for n in COUNTS[:-1]:
            assert up(old[:n], None if side is None else side[:n]).tobytes() == whole[:n].tobytes()
        for threads in (1, 3):
            assert Upgrader(spec, precision="bf16", threads=threads)(old, side).tobytes() == whole.tobytes()

    def test_exact_on_small_integers(self):
        """Weights and rows that bf16 holds exactly, sums below 2^24: the result is exact, odd widths and bare branches included."""
        rng = np.random.default_rng(0)

        def layer(out_dim, in_dim, relu):
            weight, bias = rng.integers(-2, 3, (out_dim, in_dim)), rng.integers(-3, 4, out_dim)
            return Layer(weight.astype(np.float32), bias.astype(np.float32), relu)

        branches = (Branch("old", (layer(3, 7, True),)), Branch("side", ()), Branch("old", (layer(18, 7, True),)))
        spec = TransformSpec(7, 2, 5, branches, (layer(5, 23, False),), normalize=False)
        old = rng.integers(-3, 4, (100, 7)).astype(np.float32)
        side = rng.integers(-3, 4, (100, 2)).astype(np.float32)
        dirty = np.full((300, 9), np.nan, np.float32)  # leaves NaN in the kernels' working memory
        up = Upgrader(spec, precision="bf16")
        up(dirty[:, :7], dirty[:, 7:], nonfinite="flag")
        assert np.array_equal(up(old, side), spec.apply_float64(old, side))

    def test_an_odd_concatenation_reads_no_leftovers(self, rows):
        """17 + 16 columns: the pair's second half lies past the row, where an earlier call left NaN."""
        rng = np.random.default_rng(0)

        def layer(out_dim, in_dim, relu):
            return Layer(rng.standard_normal((out_dim, in_dim)).astype(np.float32), np.zeros(out_dim, np.float32), relu)

        branches = (Branch("old", (layer(17, 8, True),)), Branch("side", (layer(16, 8, True),)))
        spec = TransformSpec(8, 8, 8, branches, (layer(8, 33, False),))
        dirty = TransformSpec(64, 0, 64, (Branch("old", ()),), (layer(64, 64, False), layer(64, 64, False)))
        up, soil = Upgrader(spec, precision="bf16", threads=1), Upgrader(dirty, precision="bf16", threads=1)
        old, side = rows(50, 8), rows(50, 8, 1)
        want = up(old, side)
        soil(np.full((400, 64), np.nan, np.float32), nonfinite="flag")
        assert up(old, side).tobytes() == want.tobytes()

    def test_nan_is_reported(self, make_transform, rows):
        up = Upgrader(make_transform(), precision="bf16")
        old, side = pair(rows, 300, 12, 5)
        side[200, 4] = np.nan
        with pytest.raises(errors.NonFiniteError, match="row 200 "):
            up(old, side)

    def test_levels_without_it_say_so(self, make_transform):
        with pytest.raises(errors.DeviceError, match="AVX-512 BF16"):
            Upgrader(make_transform(), precision="bf16", level="avx2")


def test_without_normalisation_the_scale_is_kept(level, make_transform, rows):
    spec = make_transform(normalize=False).to_spec()
    old, side = pair(rows, 50, 12, 5)
    want = spec.apply_float64(old, side)
    np.testing.assert_allclose(Upgrader(spec, level=level)(old, side), want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_any_structure_is_data(branches, level, rows):
    """Branches without layers, several branches on one input, deep trunks: all against float64."""
    rng = np.random.default_rng(branches)

    def layer(out_dim, in_dim, relu):
        weight = (rng.standard_normal((out_dim, in_dim)) / np.sqrt(in_dim)).astype(np.float32)
        return Layer(weight, rng.standard_normal(out_dim).astype(np.float32), relu)

    parts = [
        Branch("old", ()),
        Branch("side", (layer(9, 5, True), layer(21, 9, False), layer(3, 21, True))),
        Branch("old", (layer(33, 12, True),)),
    ]
    parts = parts[:branches]
    concat = sum(p.layers[-1].out_dim if p.layers else 12 for p in parts)
    trunk = (layer(40, concat, True), layer(17, 40, True), layer(30, 17, False), layer(8, 30, False))
    side_dim = 5 if branches > 1 else 0
    spec = TransformSpec(12, side_dim, 8, tuple(parts), trunk)
    old, side = pair(rows, 100, 12, side_dim)
    np.testing.assert_allclose(Upgrader(spec, level=level)(old, side), spec.apply_float64(old, side), atol=3e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_inputs_are_widened_exactly(dtype, level, make_transform, rows):
    up = Upgrader(make_transform(), level=level)
    old, side = (torch.from_numpy(x).to(getattr(torch, dtype)) for x in pair(rows, 37, 12, 5))
    want = up(old.float().numpy(), side.float().numpy())
    assert up(old, side).numpy().tobytes() == want.tobytes()
    if dtype == "float16":
        assert up(old.numpy(), side.numpy()).tobytes() == want.tobytes()


def test_strided_inputs_and_outputs(level, make_transform, rows):
    up = Upgrader(make_transform(), level=level)
    old, side = pair(rows, 40, 12, 5)
    want = up(old, side)
    both = np.concatenate([old, side], axis=1)
    assert up(both[:, :12], both[:, 12:]).tobytes() == want.tobytes()
    assert up(old[::2], side[::2]).tobytes() == want[::2].tobytes()
    assert up(old[::-1], side[::-1]).tobytes() == want[::-1].tobytes()
    assert up(np.asfortranarray(old), side).tobytes() == want.tobytes()
    assert up(torch.from_numpy(both)[:, :12], torch.from_numpy(both)[:, 12:]).numpy().tobytes() == want.tobytes()
    wide = np.full((40, 20), 7, np.float32)
    assert up(old, side, out=wide[:, 4:12]) is not None
    assert (wide[:, 4:12] == want).all()
    assert (wide[:, :4] == 7).all()
    assert (wide[:, 12:] == 7).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_output_is_rounded_once(dtype, make_transform, rows):
    up = Upgrader(make_transform())
    old, side = (torch.from_numpy(x) for x in pair(rows, 40, 12, 5))
    got = up(old, side, out_dtype=getattr(torch, dtype))
    assert torch.equal(got, up(old, side).to(getattr(torch, dtype)))
    if dtype == "float16":
        assert np.array_equal(up(old.numpy(), side.numpy(), out_dtype="float16"), got.numpy())
        assert np.array_equal(up(old.numpy(), side.numpy(), out_dtype=np.float16), got.numpy())


def test_readonly_and_mapped_inputs(tmp_path, make_transform, rows):
    up = Upgrader(make_transform())
    old, side = pair(rows, 40, 12, 5)
    np.save(tmp_path / "old.npy", old)
    mapped = np.load(tmp_path / "old.npy", mmap_mode="r")
    assert up(mapped, side).tobytes() == up(old, side).tobytes()


def test_uncertainty_is_the_extra_row(level, make_transform, rows):
    spec = make_transform(uncertainty=True).to_spec()
    old, side = pair(rows, 30, 12, 5)
    new, s = Upgrader(spec, level=level)(old, side, return_uncertainty=True)
    want = spec.apply_float64(old, side)
    np.testing.assert_allclose(new, want[:, :8], atol=2e-6)
    np.testing.assert_allclose(s, want[:, 8], atol=1e-5)
    new, s, bad = Upgrader(spec)(
        torch.from_numpy(old), torch.from_numpy(side), return_uncertainty=True, nonfinite="flag"
    )
    assert s.shape == (30,)
    assert not bad.any()


class TestNumbersAtTheEdge:
    """NaN, Inf, zero, tiny and huge rows, as DESIGN section 5 says; every level alike."""

    @pytest.fixture
    def identity(self):
        """h that normalises its input: one linear layer, the unit matrix."""
        layer = Layer(np.eye(4, dtype=np.float32), np.zeros(4, np.float32), relu=False)
        return TransformSpec(4, 0, 4, (Branch("old", ()),), (layer,))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("which", ["old", "side"])
    def test_nonfinite_input(self, value, which, level, make_transform, rows):
        up = Upgrader(make_transform(), level=level)
        old, side = pair(rows, 700, 12, 5)
        clean = up(old, side)
        for row in (641, 300, 17):
            (old if which == "old" else side)[row, 3] = value
        with pytest.raises(errors.NonFiniteError, match="row 17 "):
            up(old, side)
        new, bad = up(old, side, nonfinite="flag")
        assert list(np.flatnonzero(bad)) == [17, 300, 641]
        assert not new[bad].any()
        assert new[~bad].tobytes() == clean[~bad].tobytes()

    @pytest.mark.parametrize("scale", [1e-30, 1e-19, 1.0, 1e19, 5e37])
    def test_any_magnitude_normalises(self, scale, level, identity):
        old = (np.array([[3, 4, 0, 0], [-1, 1, -1, 1]], np.float64) * scale).astype(np.float32)
        new, bad = Upgrader(identity, level=level)(old, nonfinite="flag")
        np.testing.assert_allclose(new, [[0.6, 0.8, 0, 0], [-0.5, 0.5, -0.5, 0.5]], atol=1e-7)
        assert not bad.any()

    @pytest.mark.parametrize("value", [0.0, 1e-45, 2e-39])
    def test_rows_too_small_to_normalise_become_zero_and_are_flagged(self, value, level, identity):
        old = np.full((3, 4), value, np.float32)
        old[1] = 1
        up = Upgrader(identity, level=level)
        new, bad = up(old, nonfinite="flag")
        assert bad.tolist() == [True, False, True]
        assert not new[[0, 2]].any()
        assert not up(old)[[0, 2]].any(), "without flags a zero row is no error"

    def test_overflow_is_reported(self, level):
        layer = Layer(np.full((2, 4), 1e30, np.float32), np.zeros(2, np.float32), relu=False)
        spec = TransformSpec(4, 0, 2, (Branch("old", ()),), (layer,))
        old = np.ones((3, 4), np.float32)
        old[2] = 1e30
        up = Upgrader(spec, level=level)
        with pytest.raises(errors.NonFiniteError, match="row 2 .*overflow"):
            up(old)
        new, bad = up(old, nonfinite="flag")
        assert bad.tolist() == [False, False, True]
        assert np.isfinite(new).all()

    def test_overflow_of_float16_output_is_reported(self, level):
        layer = Layer(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), relu=False)
        up = Upgrader(TransformSpec(2, 0, 2, (Branch("old", ()),), (layer,), normalize=False), level=level)
        old = np.array([[65503, 1], [1, -65520], [65519, 0]], np.float32)
        new, bad = up(old, out_dtype="float16", nonfinite="flag")
        assert bad.tolist() == [False, True, False]
        assert np.array_equal(new, np.array([[65504, 1], [0, 0], [65504, 0]], np.float16))
        assert not up(old, nonfinite="flag")[1].any()

    def test_overflow_of_the_uncertainty_is_reported(self, level):
        weight = np.array([[1, 0], [0, 1], [3e38, 3e38]], np.float32)
        spec = TransformSpec(
            2, 0, 2, (Branch("old", ()),), (Layer(weight, np.zeros(3, np.float32), False),), uncertainty=True
        )
        new, s, bad = Upgrader(spec, level=level)(
            np.array([[3, 4], [0.1, 0]], np.float32), nonfinite="flag", return_uncertainty=True
        )
        assert bad.tolist() == [True, False]
        assert np.isfinite(s).all()
        assert not new[0].any()

    def test_flush_to_zero_of_the_caller_changes_nothing(self, level):
        """torch.set_flush_denormal sets the calling thread's state; kernels run with the default one, on every thread."""
        layer = Layer(np.eye(4, dtype=np.float32), np.zeros(4, np.float32), relu=False)
        spec = TransformSpec(4, 0, 4, (Branch("old", ()),), (layer,), normalize=False)
        old = np.full((5000, 4), 1e-40, np.float32)
        assert torch.set_flush_denormal(True)
        try:
            for threads in (1, 4):
                assert Upgrader(spec, level=level, threads=threads)(old).tobytes() == old.tobytes()
        finally:
            torch.set_flush_denormal(False)

    def test_floating_point_state_is_untouched(self, make_transform, rows):
        """No flush-to-zero, no rounding mode: the smallest subnormal survives in the process that ran the kernels."""
        libm = ctypes.CDLL("libm.so.6")
        before = libm.fegetround()
        Upgrader(make_transform())(*pair(rows, 200, 12, 5))
        assert libm.fegetround() == before
        assert np.float32(1e-45) * np.float32(1) > 0
        assert np.nextafter(np.float32(0), np.float32(1)) / np.float32(1) > 0


class TestBadInput:
    @pytest.mark.parametrize(
        ("old", "side", "error", "words"),
        [
            (
                np.zeros((4, 11), np.float32),
                np.zeros((4, 5), np.float32),
                errors.ShapeError,
                "old has 11 values a row, expected 12",
            ),
            (
                np.zeros((4, 12), np.float32),
                np.zeros((4, 6), np.float32),
                errors.ShapeError,
                "side has 6 values a row, expected 5",
            ),
            (
                np.zeros((4, 12), np.float32),
                np.zeros((3, 5), np.float32),
                errors.ShapeError,
                "old has 4 rows and side has 3",
            ),
            (np.zeros((4, 12), np.float32), None, errors.ShapeError, "side is missing"),
            (np.zeros(12, np.float32), np.zeros((1, 5), np.float32), errors.ShapeError, "shape"),
            (np.zeros((4, 12)), np.zeros((4, 5), np.float32), errors.DtypeError, "float64"),
            (np.zeros((4, 12), np.int32), np.zeros((4, 5), np.float32), errors.DtypeError, "int32"),
            (np.zeros((4, 12), ">f4"), np.zeros((4, 5), np.float32), errors.DtypeError, "byte order"),
            ([[0.0] * 12], np.zeros((1, 5), np.float32), errors.DtypeError, "list"),
            (torch.zeros(4, 12), np.zeros((4, 5), np.float32), errors.DtypeError, "two libraries"),
            (torch.zeros(4, 12, device="meta"), torch.zeros(4, 5, device="meta"), errors.DtypeError, "meta"),
            (np.zeros((4, 12), object), np.zeros((4, 5), np.float32), errors.DtypeError, "object"),
        ],
    )
    def test_wrong_arrays(self, old, side, error, words, make_transform):
        with pytest.raises(error, match=words):
            Upgrader(make_transform())(old, side)

    def test_wrong_out(self, make_transform, rows):
        up = Upgrader(make_transform())
        old, side = pair(rows, 4, 12, 5)
        for out, error in [
            (np.zeros((3, 8), np.float32), errors.ShapeError),
            (np.zeros((4, 9), np.float32), errors.ShapeError),
            (np.zeros((4, 8)), errors.DtypeError),
            (np.zeros((4, 16), np.float32)[:, ::2], errors.DtypeError),
        ]:
            with pytest.raises(error):
                up(old, side, out=out)
        frozen = np.zeros((4, 8), np.float32)
        frozen.setflags(write=False)
        with pytest.raises(errors.DtypeError, match="read-only"):
            up(old, side, out=frozen)

    def test_out_may_be_the_input_but_not_overlap_it(self, make_transform, rows):
        layer = Layer(np.eye(4, dtype=np.float32)[::-1].copy(), np.zeros(4, np.float32), relu=False)
        up = Upgrader(TransformSpec(4, 0, 4, (Branch("old", ()),), (layer,)))
        memory = rows(101, 8)
        want = up(memory[:100, :4])
        assert np.array_equal(up(memory[:100, :4].copy()), want)
        beside = memory.copy()
        assert np.array_equal(up(beside[:100, :4], out=beside[:100, 4:]), want)
        place = memory[:100, :4].copy()
        assert np.array_equal(up(place, out=place), want)
        shifted = memory[:, :4].copy()
        with pytest.raises(errors.ShapeError, match="overlaps old"):
            up(shifted[:-1], out=shifted[1:])
        with pytest.raises(errors.ShapeError, match="lie on each other"):
            up(torch.from_numpy(place), out=torch.empty(1, 4).expand(100, 4))

    @pytest.mark.parametrize("threads", [0, -1, 2.5, "2", True, 2**40])
    def test_wrong_threads(self, threads, make_transform):
        with pytest.raises(errors.ConfigError, match="threads"):
            Upgrader(make_transform(), threads=threads)

    @pytest.mark.parametrize("out_dtype", ["banana", "bfloat16", 7, "float64"])
    def test_wrong_out_dtype(self, out_dtype, make_transform, rows):
        with pytest.raises(errors.DtypeError, match="out_dtype"):
            Upgrader(make_transform())(*pair(rows, 4, 12, 5), out_dtype=out_dtype)

    def test_masked_sparse_and_empty_rows(self, make_transform, rows):
        up = Upgrader(make_transform(side_dim=0))
        for old, error in [
            (np.ma.masked_array(rows(4, 12), mask=rows(4, 12) > 0), errors.DtypeError),
            (torch.from_numpy(rows(4, 12)).to_sparse(), errors.DtypeError),
            (np.zeros((4, 0), np.float32), errors.ShapeError),
        ]:
            with pytest.raises(error):
                up(old)

    def test_views_of_torch_are_read_right(self, make_transform, rows):
        up = Upgrader(make_transform(side_dim=0))
        old = torch.from_numpy(rows(4, 12))
        assert torch.equal(up(torch._neg_view(old)), up(-old))
        assert torch.equal(up(old.clone().requires_grad_()), up(old))

    def test_wrong_options(self, make_transform, rows):
        h = make_transform()
        old, side = pair(rows, 4, 12, 5)
        for options, error in [
            ({"device": "cuda"}, errors.DeviceError),
            ({"precision": "fp8"}, errors.ConfigError),
            ({"level": 3}, errors.ConfigError),
            ({"scale_check": "maybe"}, errors.ConfigError),
            ({"level": "avx1024"}, errors.DeviceError),
        ]:
            with pytest.raises(error):
                Upgrader(h, **options)
        with pytest.raises(errors.DtypeError):
            Upgrader(object())
        with pytest.raises(errors.ConfigError):
            Upgrader(h)(old, side, nonfinite="ignore")
        with pytest.raises(errors.ConfigError, match="uncertainty"):
            Upgrader(h)(old, side, return_uncertainty=True)
        with pytest.raises(errors.DtypeError, match="out_dtype"):
            Upgrader(h)(old, side, out_dtype="int8")

    def test_side_given_where_none_is_used(self, make_transform, rows):
        with pytest.raises(errors.ShapeError, match="without side-information"):
            Upgrader(make_transform(side_dim=0))(rows(4, 12), rows(4, 5))

    def test_damaged_packed_weights_are_refused(self, make_transform, rows):
        up = Upgrader(make_transform())
        old, side = pair(rows, 4, 12, 5)
        out, status = np.empty((4, 8), np.float32), np.empty(4, np.uint8)
        for packed in (np.zeros(0, np.uint8), np.zeros(4096, np.uint8), up._packed[:-64].copy()):
            with pytest.raises(errors.DtypeError, match="packed"):
                native().upgrade(packed, "", old, side, out, None, status, 1)


class TestScale:
    def test_normalised_rows_fed_to_raw_h_are_refused(self, make_transform, rows):
        from fct_fast.space import SpaceFingerprint

        h = make_transform()
        old, side = pair(rows, 500, 12, 5)
        old *= 30
        h.spaces = {"old": SpaceFingerprint.measure(old), "side": SpaceFingerprint.measure(side)}
        up = Upgrader(h)
        up(old, side)
        unit = old / np.linalg.norm(old, axis=1, keepdims=True)
        with pytest.raises(errors.SpaceError, match="old"):
            Upgrader(h)(unit, side)
        with pytest.warns(UserWarning, match="old"):
            Upgrader(h, scale_check="warn")(unit, side)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Upgrader(h, scale_check="off")(unit, side)


class TestManyCallers:
    def test_threads_share_one_upgrader(self, make_transform, rows):
        up = Upgrader(make_transform(inner_dim=256))
        old, side = pair(rows, 2000, 12, 5)
        want = up(old, side).tobytes()
        results: list[bool] = []

        def call() -> None:
            results.extend(up(old, side).tobytes() == want for _ in range(10))

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * 80

    def test_the_gil_is_released(self, make_transform, rows):
        up = Upgrader(make_transform(64, 64, 0, 2048), threads=1)
        old = rows(4000, 64)
        ticks = 0
        done = threading.Event()

        def work() -> None:
            up(old)
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        while not done.is_set():
            ticks += 1
            time.sleep(0.001)
        thread.join()
        assert ticks > 5

    def test_a_forked_child_can_upgrade(self, make_transform, rows):
        up = Upgrader(make_transform(), threads=2)
        old, side = pair(rows, 500, 12, 5)
        want = up(old, side).tobytes()
        context = multiprocessing.get_context("fork")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            with context.Pool(1) as pool:
                assert pool.apply(_bytes_of, (up, old, side)) == want

    def test_ctrl_c_ends_a_long_call(self):
        """KeyboardInterrupt within 0.2 s of the signal, and the Upgrader works afterwards."""
        code = """
import os, signal, threading, time
import numpy as np
from fct_fast import Upgrader
from fct_fast.spec import Branch, Layer, TransformSpec
layers = tuple(Layer(np.eye(2048, dtype=np.float32), np.zeros(2048, np.float32), True) for _ in range(40))
up = Upgrader(TransformSpec(2048, 0, 2048, (Branch("old", ()),), layers))
old = np.ones((40000, 2048), np.float32)
sent = []
def interrupt():
    time.sleep(0.5)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    up(old)
    print("finished")
except KeyboardInterrupt:
    print("interrupted", time.perf_counter() - sent[0])
assert up(old[:3]).shape == (3, 2048)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
        word, seconds = done.stdout.split()
        assert word == "interrupted"
        assert float(seconds) < 2.0, "0.2 s on a quiet machine; the bound leaves room for a busy one"


def _bytes_of(up, old, side):
    return up(old, side).tobytes()


class TestLevels:
    def test_forced_by_the_environment(self):
        code = "from fct_fast.kernels import resolve_level; print(resolve_level())"
        for name in native().usable_levels():
            env = os.environ | {"FCT_FAST_CPU_LEVEL": name}
            assert (
                subprocess.run(
                    [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
                ).stdout.strip()
                == name
            )

    def test_an_unknown_forced_level_is_a_sentence(self):
        code = "from fct_fast.kernels import resolve_level\ntry:\n  resolve_level()\nexcept Exception as e:\n  print(type(e).__name__, e)"
        env = os.environ | {"FCT_FAST_CPU_LEVEL": "mmx"}
        text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
        assert text.startswith("DeviceError FCT_FAST_CPU_LEVEL is 'mmx'")

    def test_levels_agree(self, make_transform, rows):
        h = make_transform(128, 64, 64, 512)
        old, side = pair(rows, 300, 128, 64)
        results = [Upgrader(h, level=name)(old, side) for name in native().usable_levels()]
        for other in results[1:]:
            np.testing.assert_allclose(other, results[0], atol=5e-7)

    def test_at_level_shares_the_weights(self, make_transform, rows):
        up = Upgrader(make_transform())
        scalar = up.at_level("scalar")
        assert scalar.level == "scalar"
        assert scalar.digest == up.digest
        old, side = pair(rows, 20, 12, 5)
        assert scalar(old, side).tobytes() == Upgrader(make_transform(), level="scalar")(old, side).tobytes()


def test_sigint_handler_of_the_user_is_respected(make_transform, rows):
    """A handler that does not raise does not end the call."""
    calls = []
    previous = signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    try:
        up = Upgrader(make_transform(64, 64, 0, 2048))
        old = rows(20000, 64)
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        assert up(old).shape == (20000, 64)
        timer.join()
    finally:
        signal.signal(signal.SIGINT, previous)
