"""int8: kernels give the bits of the NumPy definition at every level, for any cut and thread count; scales that do not fit
are refused; the error on a fitted h keeps the contract."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from fct_fast import Upgrader, errors, fit
from fct_fast.bundle import Bundle
from fct_fast.kernels import VNNI_SWITCH, native, ops
from fct_fast.kernels.int8 import HEADROOM, MAX_DEPTH, activation_maxima, quantized
from fct_fast.kernels.packing import pack_int8
from fct_fast.spec import Branch, Layer, TransformSpec
from fct_fast.training import FitConfig, FitResult

COUNTS = (0, 1, 5, 127, 128, 129)
SHAPES = [(16, 0, 64, 16), (17, 1, 67, 33), (100, 37, 130, 65), (128, 128, 300, 128), (2, 3, 4, 5)]


def layer(rng, out_dim, in_dim, relu=True):
    weight = rng.standard_normal((out_dim, in_dim)) * np.sqrt(2 / in_dim)
    return Layer(weight.astype(np.float32), (rng.standard_normal(out_dim) * 0.2).astype(np.float32), relu)


def same(got, want):
    return got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes()


def scales(spec, maxima):
    return Bundle.of(spec, scales={"activation_max": maxima, "rows": 1})


@pytest.fixture
def inputs(rows):
    return rows(300, 12), rows(300, 5, 1)


@pytest.mark.parametrize("uncertainty", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_are_those_of_the_definition(shape, uncertainty, level, make_transform, rows):
    """Any batch cut and thread count too; calibrated on few rows, so that later ones saturate."""
    old_dim, side_dim, inner_dim, new_dim = shape
    spec = make_transform(old_dim, new_dim, side_dim, inner_dim, uncertainty=uncertainty).to_spec()
    old, side = rows(max(COUNTS), old_dim), rows(max(COUNTS), side_dim, 1) if side_dim else None

    def cut(first, last):
        return old[first:last], None if side is None else side[first:last]

    calibration = cut(0, 20)
    want = quantized(spec, activation_maxima(spec, *calibration)).apply(old, side)
    for threads in (1, 3):
        up = Upgrader(spec, precision="int8", calibration=calibration, level=level, threads=threads)
        for n in COUNTS:
            got = up(*cut(0, n), return_uncertainty=uncertainty)
            new, s = got if uncertainty else (got, None)
            assert same(new, want[:n, :new_dim].copy()), f"other bits at n = {n}"
            assert s is None or same(s, want[:n, new_dim].copy())
        assert same(up(*cut(60, 129)), want[60:, :new_dim].copy())


@pytest.mark.parametrize("branches", [1, 2, 3, 4])
def test_any_structure(branches, level, rows):
    """Branches without layers or that end without ReLU keep the concatenation in float32; hidden layers without ReLU
    read and write float32 in between; several branches on one input."""
    rng = np.random.default_rng(branches)
    parts = (
        Branch("old", (layer(rng, 33, 12), layer(rng, 9, 33))),
        Branch("side", (layer(rng, 9, 5), layer(rng, 21, 9, relu=False), layer(rng, 3, 21))),
        Branch("old", (layer(rng, 7, 12),)),
        Branch("old", ()),
    )[:branches]
    concat = sum(p.layers[-1].out_dim if p.layers else 12 for p in parts)
    trunk = (layer(rng, 40, concat), layer(rng, 17, 40), layer(rng, 30, 17, relu=False), layer(rng, 8, 30, relu=True))
    spec = TransformSpec(12, 5 if branches > 1 else 0, 8, parts, trunk, normalize=branches % 2 == 0)
    old, side = rows(50, 12), rows(50, 5, 1) if branches > 1 else None
    maxima = activation_maxima(spec, old, side)
    want = quantized(spec, maxima).apply(old, side)
    assert same(Upgrader(spec, precision="int8", calibration=(old, side), level=level)(old, side), want)
    plain = replace(spec, normalize=False)  # a ReLU may leave next to nothing of a row, and its direction to chance
    true = plain.apply_float64(old, side)
    assert np.linalg.norm(quantized(plain, maxima).apply(old, side) - true) / np.linalg.norm(true) < 5e-2


def test_whole_numbers_are_exact(level):
    """Scales of one step and whole weights: the plain float64 chain, without any rounding; the clamp on both sides."""
    rng = np.random.default_rng(0)
    first = Layer(rng.integers(-9, 10, (7, 3)).astype(np.float32), np.full(7, 3, np.float32), relu=True)
    weight = rng.integers(-126, 127, (2, 7)).astype(np.float32)
    weight[:, 0] = 127
    last = Layer(weight, rng.integers(-5, 6, 2).astype(np.float32), relu=False)
    spec = TransformSpec(3, 0, 2, (Branch("old", (first,)),), (last,), normalize=False)
    up = Upgrader(scales(spec, {"branches.0.0": [255 / HEADROOM] * 7}), precision="int8", level=level)
    old = rng.integers(-5, 6, (200, 3)).astype(np.float32)
    assert np.array_equal(up(old), spec.apply_float64(old))
    hidden = np.clip(100 * old.astype(np.float64) @ first.weight.T + 3, 0, 255)
    assert (hidden == 255).any()
    assert np.array_equal(up(100 * old), hidden @ weight.T + last.bias)


def test_largest_sums_neither_wrap_nor_saturate(level):
    """All activations 255, all weights 127, the deepest layer int32 allows: a 16-bit or a wrapped sum is far off."""
    first = Layer(np.zeros((MAX_DEPTH, 1), np.float32), np.full(MAX_DEPTH, 255, np.float32), relu=True)
    weight = np.full((3, MAX_DEPTH), 127, np.float32)
    weight[1] = -127
    spec = TransformSpec(
        1, 0, 3, (Branch("old", (first,)),), (Layer(weight, np.zeros(3, np.float32), False),), normalize=False
    )
    up = Upgrader(
        Bundle(spec, scales={"activation_max": {"branches.0.0": [255 / HEADROOM] * MAX_DEPTH}, "rows": 1}),
        precision="int8",
        level=level,
    )
    most = np.float32(255 * 127 * MAX_DEPTH)
    assert np.array_equal(up(np.zeros((1, 1), np.float32)), [[most, -most, most]])


def test_one_more_value_than_int32_holds_is_refused():
    n = MAX_DEPTH + 1
    first = Layer(np.zeros((n, 1), np.float32), np.zeros(n, np.float32), relu=True)
    last = Layer(np.zeros((1, n), np.float32), np.zeros(1, np.float32), relu=False)
    spec = TransformSpec(1, 0, 1, (Branch("old", (first,)),), (last,))
    with pytest.raises(errors.ShapeError, match=f"int8 sums up to {MAX_DEPTH}"):
        Upgrader(spec, precision="int8", calibration=(np.zeros((1, 1), np.float32), None))


def test_inputs_torch_dtypes_and_bad_rows(level, make_transform, inputs):
    old, side = inputs
    up = Upgrader(
        make_transform(), precision="int8", calibration=(torch.from_numpy(old), torch.from_numpy(side)), level=level
    )
    want = up(old, side)
    assert same(up(torch.from_numpy(old), torch.from_numpy(side)).numpy(), want)
    half = old.astype(np.float16), side.astype(np.float16)
    assert same(up(*half), up(*(x.astype(np.float32) for x in half)))
    assert same(up(old, side, out_dtype="float16"), want.astype(np.float16))
    old[7, 3] = np.nan
    side[200, 0] = np.inf
    with pytest.raises(errors.NonFiniteError, match="row 7 "):
        up(old, side)
    new, bad = up(old, side, nonfinite="flag")
    assert list(np.flatnonzero(bad)) == [7, 200]
    assert not new[bad].any()
    assert same(new[~bad], want[~bad])


class TestScales:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda m: m.pop("trunk.1"), "lack the layer trunk.1"),
            (lambda m: m.update({"trunk.0": [1.0]}), "must be 24 finite numbers"),
            (lambda m: m["trunk.0"].__setitem__(3, -1.0), "must be 24 finite numbers"),
            (lambda m: m["trunk.0"].__setitem__(3, float("nan")), "must be 24 finite numbers"),
            (lambda m: m["trunk.0"].__setitem__(3, float("inf")), "must be 24 finite numbers"),
            (lambda m: m.update({"trunk.0": "many"}), "trunk.0"),
            (lambda m: m.update({"branches.0.0": [1e-38] * 24}), "too small for its weights"),
        ],
    )
    def test_hostile_ones_are_refused(self, change, words, small_spec, inputs):
        maxima = activation_maxima(small_spec, *inputs)
        change(maxima)
        bundle = Bundle(small_spec, scales={"activation_max": maxima, "rows": 300})  # unchecked, as no file can be
        with pytest.raises(errors.ConfigError, match=words):
            Upgrader(bundle, precision="int8")

    def test_silent_channels_and_layers_still_work(self, level, small_spec, inputs):
        """A channel that never fired has no scale of its own; rows where it fires are still roughly right."""
        maxima = activation_maxima(small_spec, *inputs)
        maxima["trunk.0"][::3] = [0.0] * 8
        new = Upgrader(scales(small_spec, maxima), precision="int8", level=level)(*inputs)
        assert np.linalg.norm(new - small_spec.apply_float64(*inputs)) / np.sqrt(300) < 0.1
        maxima = {name: [0.0] * len(values) for name, values in maxima.items()}
        want = quantized(small_spec, maxima).apply(*inputs)
        assert same(Upgrader(scales(small_spec, maxima), precision="int8", level=level)(*inputs), want)
        assert np.isfinite(want).all()

    def test_none_at_all_says_what_to_give(self, make_transform):
        with pytest.raises(errors.ConfigError, match=r"needs activation scales.*calibration=\(old, side\)"):
            Upgrader(make_transform(), precision="int8")

    def test_a_linear_map_has_nothing_to_quantise(self, rows):
        spec = TransformSpec(4, 0, 2, (Branch("old", ()),), (layer(np.random.default_rng(0), 2, 4, relu=False),))
        for calibration in (None, (rows(9, 4), None)):
            with pytest.raises(errors.ConfigError, match="nothing to quantise"):
                Upgrader(spec, precision="int8", calibration=calibration)

    @pytest.mark.parametrize(
        ("calibration", "error"),
        [
            (np.zeros((3, 12), np.float32), errors.ConfigError),
            ((np.zeros((0, 12)), np.zeros((0, 5))), errors.ConfigError),
            ((np.zeros((3, 12)), np.zeros((2, 5))), errors.ConfigError),
            ((np.zeros((3, 12)), None), errors.ShapeError),
            ((np.zeros((3, 11)), np.zeros((3, 5))), errors.ShapeError),
            ((np.full((3, 12), np.nan), np.zeros((3, 5))), errors.NonFiniteError),
        ],
    )
    def test_calibration_rows_are_checked(self, calibration, error, small_spec):
        with pytest.raises(error, match="calibration"):
            Upgrader(small_spec, precision="int8", calibration=calibration)

    def test_maxima_are_those_of_the_plain_chain(self, small_spec, inputs):
        maxima = activation_maxima(small_spec, *inputs)
        x = inputs[1].astype(np.float64)
        for i, part in enumerate(small_spec.branches[1].layers):
            x = np.maximum(x @ part.weight.T.astype(np.float64) + part.bias, 0)
            np.testing.assert_allclose(maxima[f"branches.1.{i}"], x.max(axis=0), rtol=1e-4, atol=1e-6)

    def test_other_calibration_rows_are_another_digest(self, small_spec, inputs):
        """A backfill's key holds the digest: a job is not resumed with other scales."""
        old, side = inputs
        digests = {
            Upgrader(small_spec, precision="int8", calibration=(old[:n], side[:n])).digest for n in (50, 300, 300)
        }
        bundle = scales(small_spec, activation_maxima(small_spec, old, side))
        digests.add(Upgrader(bundle, precision="int8").digest)
        digests.add(Upgrader(bundle, precision="int8", calibration=(old[:50], side[:50])).digest)
        assert len(digests) == 3
        assert Upgrader(bundle, precision="int8").digest == bundle.digest


def test_auto_never_picks_it(small_spec, inputs):
    assert Upgrader(scales(small_spec, activation_maxima(small_spec, *inputs))).precision != "int8"


def test_packed_weights_are_a_tensor_of_the_op(small_spec, inputs):
    packed = torch.from_numpy(pack_int8(quantized(small_spec, activation_maxima(small_spec, *inputs))))
    rows = [torch.from_numpy(x[:9]) for x in inputs]
    torch.library.opcheck(ops.upgrade, (packed, *rows, 8, torch.float32, False, True, "", 0))
    up = Upgrader(small_spec, precision="int8", calibration=inputs)
    compiled = torch.compile(lambda old, side: up(old, side), fullgraph=True, backend="eager")
    assert same(compiled(*rows).numpy(), up(*(x.numpy() for x in rows)))


def test_damaged_packed_weights_are_refused(small_spec, inputs):
    packed = pack_int8(quantized(small_spec, activation_maxima(small_spec, *inputs)))
    out, status = np.empty((300, 8), np.float32), np.empty(300, np.uint8)
    for damaged in (packed[:-64].copy(), packed[:4096].copy()):
        with pytest.raises(errors.DtypeError, match="packed"):
            native().upgrade(damaged, "", *inputs, out, None, status, 1)


@pytest.mark.skipif(not native().has_vnni(), reason="needs a CPU with AVX-512 VNNI")
def test_vnni_gives_the_same_bits():
    code = """
import numpy as np
from fct_fast.cli.selftest import _transform
from fct_fast import Upgrader
rng = np.random.default_rng(0)
spec = _transform(rng)
old, side = rng.standard_normal((257, 19), np.float32), rng.standard_normal((257, 13), np.float32)
import hashlib
print(hashlib.sha256(Upgrader(spec, precision="int8", calibration=(old, side), level="avx512")(old, side)).hexdigest())
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {VNNI_SWITCH: switch},
        ).stdout
        for switch in ("0", "1")
    }
    assert len(found) == 1


@pytest.fixture(scope="module")
def fitted() -> tuple[FitResult, tuple[np.ndarray, np.ndarray]]:
    """h fitted on rows of a shared latent space; and rows that it has not seen."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((3000, 24))

    def view(dim):
        return np.tanh(latent @ rng.standard_normal((24, dim)) / 4).astype(np.float32)

    old, side, new = view(32), view(16), view(40)
    result = fit(old=old[:2000], side=side[:2000], new=new[:2000], config=FitConfig(epochs=8, inner_dim=128, seed=0))
    return result, (old[2000:], side[2000:])


def test_contract_on_a_fitted_transform(fitted, tmp_path):
    """Relative error <= 3e-2, norm-wise, with the scales that fit records; rows that it has not seen."""
    import fct_fast

    result, (old, side) = fitted
    fct_fast.save(result, tmp_path / "h.safetensors")
    up = Upgrader(tmp_path / "h.safetensors", precision="int8")
    true = up.spec.apply_float64(old, side)
    error = np.linalg.norm(up(old, side) - true) / np.linalg.norm(true)
    assert 1e-3 < error <= 3e-2
    rows_error = np.linalg.norm(up(old, side) - true, axis=1)  # of unit rows
    assert rows_error.max() <= 5 * 3e-2, "what verification allows a single row"
    # Whatever a step stands for, the function is the same: channels scaled up in one layer and down in the next.
    spec = up.spec
    factors = (np.arange(128) % 7 + 1).astype(np.float32)
    first, second = spec.trunk[0], spec.trunk[1]
    trunk = (
        Layer(first.weight * factors[:, None], first.bias * factors, True),
        replace(second, weight=second.weight / factors),
        spec.trunk[2],
    )
    scaled = replace(spec, trunk=trunk)
    again = Upgrader(scaled, precision="int8", calibration=(old, side))(old, side)
    assert np.linalg.norm(again - true) / np.linalg.norm(true) <= 3e-2
