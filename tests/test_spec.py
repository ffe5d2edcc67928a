"""A TransformSpec means what its docstring says, in plain numpy, and cannot be built wrong."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fct_fast.errors import ConfigError, NonFiniteError, ShapeError
from fct_fast.spec import Branch, Layer, TransformSpec


def layer(out: int, into: int, relu: bool = True, seed: int = 0) -> Layer:
    rng = np.random.default_rng([seed, out, into])
    return Layer(rng.normal(size=(out, into)).astype(np.float32), rng.normal(size=out).astype(np.float32), relu)


def good() -> TransformSpec:
    branches = (
        Branch("old", (layer(6, 3), layer(4, 6, relu=False))),
        Branch("side", ()),
        Branch("old", (layer(5, 3),)),
    )
    return TransformSpec(3, 2, 4, branches, (layer(7, 11), layer(5, 7, relu=False)), uncertainty=True)


def row_by_row(spec: TransformSpec, old: np.ndarray, side: np.ndarray) -> np.ndarray:
    """The meaning again, with Python loops."""

    def run(layers: tuple[Layer, ...], x: list[float]) -> list[float]:
        for one in layers:
            y = []
            for weights, bias in zip(one.weight.tolist(), one.bias.tolist(), strict=True):
                value = bias + sum(w * v for w, v in zip(weights, x, strict=True))
                y.append(max(value, 0.0) if one.relu else value)
            x = y
        return x

    out = []
    for o, s in zip(old, side, strict=True):
        joined = [v for b in spec.branches for v in run(b.layers, list(map(float, o if b.input == "old" else s)))]
        x = run(spec.trunk, joined)
        norm = sum(v * v for v in x[: spec.new_dim]) ** 0.5
        out.append([v / norm for v in x[: spec.new_dim]] + x[spec.new_dim :] if spec.normalize else x)
    return np.array(out)


@pytest.mark.parametrize("normalize", [True, False])
def test_meaning(normalize):
    spec = dataclasses.replace(good(), normalize=normalize)
    rng = np.random.default_rng(1)
    old, side = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    expected = row_by_row(spec, old, side)
    assert expected.shape == (20, 5)
    np.testing.assert_allclose(spec.apply_float64(old, side), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        spec.apply_float64(old, side, normalize=False),
        row_by_row(dataclasses.replace(spec, normalize=False), old, side),
        rtol=1e-12,
        atol=1e-14,
    )


def test_sizes():
    spec = good()
    assert (spec.out_dim, spec.concat_dim) == (5, 4 + 2 + 5)
    assert spec.flops_per_row == 2 * (6 * 3 + 4 * 6 + 5 * 3 + 7 * 11 + 5 * 7)
    assert [name for name, _ in spec.named_layers()] == [
        "branches.0.0",
        "branches.0.1",
        "branches.2.0",
        "trunk.0",
        "trunk.1",
    ]


def test_zero_rows_stay_zero_and_no_rows_are_fine():
    spec = TransformSpec(
        2, 0, 2, (Branch("old", ()),), (Layer(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), False),)
    )
    assert spec.apply_float64([[0.0, 0.0], [3e100, 4e100], [0.0, -2.0]]).tolist()[::2] == [[0, 0], [0, -1]]
    assert spec.apply_float64(np.zeros((0, 2))).shape == (0, 2)


def test_equality_is_by_value():
    assert good() == good()
    other = good()
    other.trunk[0].weight[0, 0] += 1
    assert good() != other
    assert layer(2, 2) != layer(2, 2, relu=False)
    assert layer(2, 2) != "layer"


@pytest.mark.parametrize(
    ("old", "side"),
    [
        (np.zeros((4, 3)), None),
        (np.zeros((4, 2)), np.zeros((4, 2))),
        (np.zeros((4, 3)), np.zeros((4, 3))),
        (np.zeros((4, 3)), np.zeros((5, 2))),
        (np.zeros(3), np.zeros((4, 2))),
    ],
)
def test_rows_that_do_not_fit(old, side):
    with pytest.raises(ShapeError):
        good().apply_float64(old, side)


def test_side_where_there_is_none():
    spec = TransformSpec(3, 0, 4, (Branch("old", ()),), (layer(4, 3),))
    with pytest.raises(ShapeError, match="side_dim is 0, but side was given"):
        spec.apply_float64(np.zeros((4, 3)), np.zeros((4, 2)))


def poisoned(value: float) -> Layer:
    bad = layer(7, 11)
    bad.weight[2, 3] = value
    return bad


LAST = layer(5, 7, relu=False)
BAD = [
    ({"old_dim": 0}, ShapeError, "old_dim >= 1"),
    ({"new_dim": 0}, ShapeError, "new_dim >= 1"),
    ({"side_dim": -1}, ShapeError, "side_dim >= 0"),
    ({"old_dim": 4}, ShapeError, r"branch 0 \(old\), layer 0 reads 3 values but is given 4"),
    ({"side_dim": 3}, ShapeError, "trunk, layer 0 reads 11 values but is given 12"),
    ({"side_dim": 0}, ConfigError, "side_dim is 0 but the branches read"),
    ({"branches": (Branch("old", (layer(11, 3),)),)}, ConfigError, "side_dim is 2 but"),
    ({"branches": ()}, ConfigError, "at least one branch"),
    ({"trunk": ()}, ConfigError, "one trunk layer"),
    ({"branches": (Branch("new", ()), Branch("side", ()))}, ConfigError, "reads 'old' or 'side'"),
    ({"new_dim": 5}, ShapeError, "ends with 5 outputs; new_dim 5 plus the uncertainty row needs 6"),
    ({"uncertainty": False}, ShapeError, "new_dim 4 needs 4"),
    ({"trunk": (layer(7, 11), layer(5, 8))}, ShapeError, "trunk, layer 1 reads 8 values but is given 7"),
    ({"trunk": (poisoned(np.nan), LAST)}, NonFiniteError, "trunk.0 holds NaN or Inf"),
    ({"trunk": (poisoned(np.inf), LAST)}, NonFiniteError, "trunk.0"),
    ({"trunk": (Layer(np.zeros((7, 11)), np.zeros(7, np.float32), True), LAST)}, ShapeError, "float64 weights"),
    ({"trunk": (Layer(np.zeros((7, 11), np.float32), np.zeros(6, np.float32), True), LAST)}, ShapeError, "trunk.0 has"),
    ({"trunk": (Layer(np.zeros((0, 11), np.float32), np.zeros(0, np.float32), True), LAST)}, ShapeError, "trunk.0 has"),
    ({"trunk": (Layer(np.zeros(11, np.float32), np.zeros(7, np.float32), True), LAST)}, ShapeError, "trunk.0 has"),
]


@pytest.mark.parametrize(("change", "error", "match"), BAD)
def test_cannot_be_built_wrong(change, error, match):
    with pytest.raises(error, match=match):
        dataclasses.replace(good(), **change)


@settings(max_examples=60, deadline=None)
@given(
    dims=st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(1, 9)),
    widths=st.lists(st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=4),
    trunk=st.lists(st.integers(1, 9), max_size=3),
    scale=st.sampled_from([1e-20, 1.0, 1e15]),
)
def test_any_structure_runs_and_normalises(dims, widths, trunk, scale):
    old_dim, side_dim, new_dim = dims
    branches, concat = [], 0
    for b, stack in enumerate(widths):
        name = "side" if side_dim and b % 2 else "old"
        at, layers = old_dim if name == "old" else side_dim, []
        for i, width in enumerate(stack):
            layers.append(layer(width, at, seed=i))
            at = width
        branches.append(Branch(name, tuple(layers)))
        concat += at
    if side_dim and len(widths) < 2:
        branches.append(Branch("side", ()))
        concat += side_dim
    sizes = [concat, *trunk, new_dim]
    stack = tuple(layer(o, i, relu=n < len(trunk), seed=n) for n, (i, o) in enumerate(itertools.pairwise(sizes)))
    spec = TransformSpec(old_dim, side_dim, new_dim, tuple(branches), stack)
    rng = np.random.default_rng(0)
    old, side = rng.normal(size=(5, old_dim)) * scale, rng.normal(size=(5, side_dim)) * scale if side_dim else None
    norms = np.linalg.norm(spec.apply_float64(old, side), axis=1)
    assert np.all((np.abs(norms - 1) < 1e-12) | (norms == 0))


def test_needs_numpy_only():
    code = "import sys, fct_fast.spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
