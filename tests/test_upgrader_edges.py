"""Upgrader on numbers at the edge: NaN, Inf, zero, tiny and huge rows, and the caller's floating-point state."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from upgrader_support import pair

from fct_fast import Upgrader, errors
from fct_fast.spec import Branch, Layer, TransformSpec


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
