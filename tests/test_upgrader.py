"""Upgrader: the numeric contract against float64, bits that depend on the row alone, and typed errors for bad input."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from upgrader_support import pair

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
