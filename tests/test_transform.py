"""ForwardTransform is the paper's h, folds into a spec without loss, and comes back from one bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fct_fast import ForwardTransform
from fct_fast.errors import ShapeError
from fct_fast.spec import Branch, Layer, TransformSpec

Make = Callable[..., ForwardTransform]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny matrices; a second thread only waits where the cores are busy
    yield
    torch.set_num_threads(threads)


# ---- the architecture


def test_is_the_papers_h():
    """Layer for layer, and the parameter count that follows from it (128 / 128 / 128, inner 2048)."""
    h = ForwardTransform(128, 128, 128, inner_dim=2048)
    assert sum(p.numel() for p in h.parameters()) == 5_712_000
    shapes = [
        (name, layer.weight.shape, layer.relu)
        for name, layer in ForwardTransform(10, 6, 4, 50).to_spec().named_layers()
    ]
    assert shapes == [
        ("branches.0.0", (20, 10), True),
        ("branches.0.1", (12, 20), True),
        ("branches.1.0", (8, 4), True),
        ("branches.1.1", (12, 8), True),
        ("trunk.0", (50, 24), True),
        ("trunk.1", (50, 50), True),
        ("trunk.2", (6, 50), False),
    ]


def test_old_comes_first_in_the_concatenation():
    spec = ForwardTransform(10, 6, 4, 50).to_spec()
    assert [branch.input for branch in spec.branches] == ["old", "side"]


def test_without_side_information_there_is_one_branch():
    h = ForwardTransform(10, 6, inner_dim=50)
    assert [x.weight.shape for _, x in h.to_spec().named_layers()] == [(20, 10), (12, 20), (50, 12), (50, 50), (6, 50)]
    assert h(torch.randn(3, 10)).shape == (3, 6)


def test_uncertainty_is_one_more_row_of_the_last_layer(make_transform: Make):
    h = make_transform(uncertainty=True)
    old, side = torch.randn(7, 12), torch.randn(7, 5)
    with torch.no_grad():
        new, s = h(old, side, return_uncertainty=True)
        raw = h.raw(old, side)
        assert raw.shape == (7, 9)
        assert torch.equal(s, raw[:, 8])
        assert torch.equal(new, h(old, side))
        torch.testing.assert_close(new, nn.functional.normalize(raw[:, :8]))


@pytest.mark.parametrize("train", [True, False])
def test_raw_is_the_plain_chain_of_torch(make_transform: Make, train: bool):
    """The same numbers from functional calls written out."""
    h = make_transform().train(train)
    old, side = torch.randn(40, 12), torch.randn(40, 5)

    def hidden(layer: nn.Module, x: Tensor) -> Tensor:
        norm = layer.norm
        x = x @ layer.linear.weight.T
        mean, var = (x.mean(0), x.var(0, unbiased=False)) if train else (norm.running_mean, norm.running_var)
        return torch.relu((x - mean) / torch.sqrt(var + 1e-5) * norm.weight + norm.bias)

    with torch.no_grad():
        parts = []
        for branch, x in zip(h.branches, (old, side), strict=True):
            for layer in branch:
                x = hidden(layer, x)
            parts.append(x)
        x = torch.cat(parts, 1)
        for layer in list(h.trunk)[:-1]:
            x = hidden(layer, x)
        expected = x @ h.trunk[-1].weight.T + h.trunk[-1].bias
        torch.testing.assert_close(h.raw(old, side), expected, rtol=1e-5, atol=1e-5)


# ---- normalisation


def identity(dim: int) -> ForwardTransform:
    eye = Layer(np.eye(dim, dtype=np.float32), np.zeros(dim, np.float32), False)
    return ForwardTransform.from_spec(TransformSpec(dim, 0, dim, (Branch("old", ()),), (eye,)))


def test_rows_of_any_norm_are_normalised_and_zero_rows_stay_zero():
    rows = torch.tensor([[3e19, 4e19], [3e-30, 4e-30], [0, 0], [3e38, -3e38], [0, -1e-44]])
    with torch.no_grad():
        out = identity(2)(rows)
    half = 0.5**0.5
    torch.testing.assert_close(out, torch.tensor([[0.6, 0.8], [0.6, 0.8], [0, 0], [half, -half], [0, -1]]))


def test_normalize_off_leaves_the_raw_output(make_transform: Make):
    h = make_transform(normalize=False)
    old, side = torch.randn(7, 12), torch.randn(7, 5)
    assert torch.equal(h(old, side), h.raw(old, side))


def test_gradients_are_finite_also_at_zero_rows():
    h = ForwardTransform(4, 3, inner_dim=8).eval()
    nn.init.zeros_(h.trunk[-1].bias)
    old = torch.zeros(5, 4, requires_grad=True)
    h(old).sum().backward()
    assert torch.isfinite(old.grad).all()


# ---- folding


@pytest.mark.parametrize("dims", [(12, 8, 5, 24), (1, 1, 1, 1), (64, 32, 0, 100), (128, 128, 128, 512)])
@pytest.mark.parametrize("uncertainty", [True, False])
def test_folding_loses_nothing(make_transform: Make, dims: tuple[int, int, int, int], uncertainty: bool):
    """Against the unfolded module in float64: what is left is one rounding of the weights to float32."""
    old_dim, new_dim, side_dim, inner = dims
    h = make_transform(old_dim, new_dim, side_dim, inner, uncertainty=uncertainty)
    spec = h.to_spec()
    rng = np.random.default_rng(0)
    old, side = rng.normal(size=(200, old_dim)), rng.normal(size=(200, side_dim)) if side_dim else None
    with torch.no_grad():
        expected = h.double().raw(torch.from_numpy(old), None if side is None else torch.from_numpy(side)).numpy()
    got = spec.apply_float64(old, side, normalize=False)
    scale = np.linalg.norm(expected, axis=1, keepdims=True).clip(np.abs(expected).max() * 0.1)
    assert (np.linalg.norm(got - expected, axis=1, keepdims=True) / scale).max() < 1e-6


def test_folding_uses_the_running_statistics_in_any_mode(make_transform: Make):
    h = make_transform()
    assert h.train().to_spec() == h.eval().to_spec()


def test_folding_small_variances():
    """Where the variance is below eps, eps decides; it must be in the fold."""
    h = ForwardTransform(3, 2, inner_dim=4).eval()
    with torch.no_grad():
        for module in h.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_var.fill_(1e-7)
        old = torch.randn(9, 3)
        expected = h.raw(old).numpy()
    got = h.to_spec().apply_float64(old, normalize=False)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


# ---- specs and back


def layer(out: int, into: int, relu: bool = True) -> Layer:
    rng = np.random.default_rng([out, into])
    return Layer(rng.normal(size=(out, into)).astype(np.float32), rng.normal(size=out).astype(np.float32), relu)


SPECS = {
    "ridge": TransformSpec(3, 2, 4, (Branch("old", ()), Branch("side", ())), (layer(4, 5, relu=False),)),
    "three branches": TransformSpec(
        3,
        2,
        3,
        (Branch("old", (layer(6, 3), layer(2, 6, relu=False))), Branch("side", ()), Branch("old", (layer(4, 3),))),
        (layer(7, 8), layer(5, 7, relu=False), layer(4, 5, relu=False)),
        uncertainty=True,
    ),
    "raw": TransformSpec(3, 0, 4, (Branch("old", (layer(6, 3),)),), (layer(4, 6, relu=False),), normalize=False),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_comes_back_bit_for_bit_and_means_the_same(name: str):
    spec = SPECS[name]
    h = ForwardTransform.from_spec(spec)
    assert not h.training
    back = h.to_spec()
    assert back == spec
    for (_, a), (_, b) in zip(back.named_layers(), spec.named_layers(), strict=True):
        assert a.weight.tobytes() == b.weight.tobytes()
        assert a.bias.tobytes() == b.bias.tobytes()
    old, side = torch.randn(30, 3), torch.randn(30, 2) if spec.side_dim else None
    with torch.no_grad():
        out = h(old, side, return_uncertainty=spec.uncertainty)
    out = torch.cat([out[0], out[1][:, None]], 1) if spec.uncertainty else out
    np.testing.assert_allclose(out, spec.apply_float64(old, side), atol=2e-6, rtol=1e-5)


def test_a_trained_transform_survives_the_round_trip(make_transform: Make):
    spec = make_transform(uncertainty=True, normalize=False).to_spec()
    assert ForwardTransform.from_spec(spec).to_spec() == spec


def test_from_spec_owns_its_weights_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    spec = SPECS["raw"]
    h = ForwardTransform.from_spec(spec)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        for p in h.parameters():
            p.zero_()
    assert spec.trunk[0].weight.any()
    assert all(torch.isfinite(x).all() for x in h.state_dict().values())


def test_relu_on_the_last_layer_has_no_module():
    spec = TransformSpec(3, 0, 4, (Branch("old", ()),), (layer(4, 3, relu=True),))
    with pytest.raises(ShapeError, match="last trunk layer"):
        ForwardTransform.from_spec(spec)


# ---- bad input


@pytest.mark.parametrize("dims", [(0, 1, 0, 1), (1, 0, 0, 1), (1, 1, -1, 1), (1, 1, 0, 0)])
def test_widths_that_make_no_sense(dims: tuple[int, int, int, int]):
    with pytest.raises(ShapeError, match="ForwardTransform needs"):
        ForwardTransform(*dims)


@pytest.mark.parametrize(
    ("old", "side", "match"),
    [
        (torch.zeros(4, 12), None, "side is missing"),
        (torch.zeros(4, 11), torch.zeros(4, 5), r"old must be \[rows, 12\], got \[4, 11\]"),
        (torch.zeros(4, 12), torch.zeros(4, 6), r"side must be \[rows, 5\]"),
        (torch.zeros(4, 12), torch.zeros(3, 5), "old has 4 rows and side has 3"),
        (torch.zeros(12), torch.zeros(4, 5), "old must be"),
    ],
)
def test_rows_that_do_not_fit(make_transform: Make, old: Tensor, side: Tensor | None, match: str):
    with pytest.raises(ShapeError, match=match):
        make_transform()(old, side)


def test_side_or_uncertainty_where_there_is_none(make_transform: Make):
    with pytest.raises(ShapeError, match="side was given"):
        make_transform(side_dim=0)(torch.zeros(4, 12), torch.zeros(4, 5))
    with pytest.raises(ShapeError, match="uncertainty=True"):
        make_transform()(torch.zeros(4, 12), torch.zeros(4, 5), return_uncertainty=True)


def test_no_rows(make_transform: Make):
    assert make_transform()(torch.zeros(0, 12), torch.zeros(0, 5)).shape == (0, 8)
