"""A transform of apple/ml-fct, rebuilt here from the description of its modules, computes the same after the import."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fct_fast
from fct_fast.errors import BundleError, NonFiniteError, ShapeError
from fct_fast.importers import from_ml_fct


class Block(nn.Module):
    """1x1 convolution `conv`, BatchNorm `normalizer`, ReLU; the plain one has a bias and nothing else."""

    def __init__(self, into: int, out: int, plain: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(into, out, 1, bias=plain)
        self.normalizer = None if plain else nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.normalizer is None else torch.relu(self.normalizer(x))


class MlFct(nn.Module):
    def __init__(self, old: int, new: int, side: int, inner: int, sigma: int = 0) -> None:
        super().__init__()
        if sigma:
            self.uncertainty_head = nn.Linear(new, sigma)
        self.p1 = nn.Sequential(Block(old, 2 * old), Block(2 * old, 2 * new))
        self.p2 = nn.Sequential(Block(side, 2 * side), Block(2 * side, 2 * new))
        self.mixer = nn.Sequential(Block(4 * new, inner), Block(inner, inner), Block(inner, new, plain=True))

    def forward(self, old: Tensor, side: Tensor) -> tuple[Tensor, Tensor | None]:
        x = torch.cat([self.p1(old[:, :, None, None]), self.p2(side[:, :, None, None])], dim=1)
        out = self.mixer(x)[:, :, 0, 0]
        return out, self.uncertainty_head(out)[:, 0] if hasattr(self, "uncertainty_head") else None


def trained(old: int = 6, new: int = 5, side: int = 4, inner: int = 12, sigma: int = 0) -> MlFct:
    """As if trained: every parameter and statistic of BatchNorm is far from its start."""
    torch.manual_seed(0)
    model = MlFct(old, new, side, inner, sigma)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 1e-4, 3)  # small enough for eps to matter
    return model.eval()


@pytest.fixture(autouse=True)
def no_gradients_one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny matrices; a second thread only waits where the cores are busy
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-5 * b.abs().max())


@pytest.mark.parametrize("dims", [(6, 5, 4, 12), (16, 128, 1, 7), (1, 1, 1, 1), (128, 64, 128, 256)])
@pytest.mark.parametrize("sigma", [0, 1])
def test_same_output(dims, sigma):
    old_dim, new_dim, side_dim, inner = dims
    model = trained(old_dim, new_dim, side_dim, inner, sigma)
    h = from_ml_fct(model.state_dict(), normalize=False)
    assert (h.old_dim, h.new_dim, h.side_dim, h.uncertainty, h.training) == (
        old_dim,
        new_dim,
        side_dim,
        bool(sigma),
        False,
    )
    old, side = torch.randn(50, old_dim), torch.randn(50, side_dim)
    expected, s = model(old, side)
    assert close(h(old, side), expected)
    folded = torch.from_numpy(h.to_spec().apply_float64(old.numpy(), side.numpy()))
    assert close(folded[:, :new_dim], expected)
    if sigma:
        assert close(h(old, side, return_uncertainty=True)[1], s)
        assert close(folded[:, new_dim], s)


def test_normalised_by_default_and_the_head_reads_the_output_before():
    model = trained(sigma=1)
    h = from_ml_fct(model.state_dict())
    old, side = torch.randn(9, 6), torch.randn(9, 4)
    expected, s = model(old, side)
    out, got = h(old, side, return_uncertainty=True)
    assert close(out, nn.functional.normalize(expected))
    assert close(got, s)


def test_trained_without_side_information():
    model = trained(6, 5, 6)
    h = from_ml_fct(model.state_dict(), normalize=False, side_is_old=True)
    assert h.side_dim == 0
    old = torch.randn(20, 6)
    assert close(h(old), model(old, old)[0])
    spec = h.to_spec()
    assert spec.side_dim == 0
    assert close(torch.from_numpy(spec.apply_float64(old.numpy())), model(old, old)[0])
    with pytest.raises(ShapeError, match="6 and 4"):
        from_ml_fct(trained().state_dict(), side_is_old=True)


def test_goes_on_into_a_bundle_and_the_kernel(tmp_path):
    model = trained(sigma=1)
    fct_fast.save(from_ml_fct(model.state_dict(), normalize=False), tmp_path / "h.safetensors")
    old, side = torch.randn(33, 6), torch.randn(33, 4)
    new, s = fct_fast.Upgrader(tmp_path / "h.safetensors")(old, side, return_uncertainty=True)
    expected = model(old, side)
    assert close(new, expected[0])
    assert close(s, expected[1])


@pytest.mark.parametrize(
    "convert",
    [
        lambda d: {f"module.{k}": v for k, v in d.items()},
        lambda d: {f"_orig_mod.module.{k}": v for k, v in d.items()},
        lambda d: {k: v.numpy() for k, v in d.items()},
        lambda d: {k: v.double() for k, v in d.items()},
        lambda d: {k: v for k, v in d.items() if "num_batches" not in k},
        lambda d: {k: v[:, :, 0, 0] if v.ndim == 4 else v for k, v in d.items()},
    ],
    ids=["DataParallel", "compiled", "numpy", "float64", "no counters", "matrices"],
)
def test_other_forms_of_the_same(convert):
    state = trained().state_dict()
    assert from_ml_fct(convert(state)).to_spec() == from_ml_fct(state).to_spec()


def test_can_be_trained_on():
    """BatchNorm stays BatchNorm, with its eps, so that a fine-tuning goes on where ml-fct stopped."""
    model, old, side = trained(), torch.randn(32, 6), torch.randn(32, 4)
    h = from_ml_fct(model.state_dict(), normalize=False)
    assert close(h.train()(old, side), model.train()(old, side)[0])


def without(name: str):
    return lambda d: d.pop(name)


def with_(name: str, value: object):
    return lambda d: d.update({name: value})


BAD = {
    "nothing": (lambda d: d.clear(), BundleError, "state dict"),
    "a layer missing": (without("mixer.1.conv.weight"), BundleError, "mixer.1.conv.weight is missing"),
    "a statistic missing": (without("p2.0.normalizer.running_var"), BundleError, "running_var is missing"),
    "half a head": (
        with_("uncertainty_head.weight", torch.zeros(1, 5)),
        BundleError,
        "uncertainty_head.bias is missing",
    ),
    "another layer": (with_("mixer.3.conv.weight", torch.zeros(5, 5)), BundleError, "'mixer.3.conv.weight'"),
    "a backbone beside it": (with_("old_model.fc.bias", torch.zeros(5)), BundleError, "'old_model.fc.bias'"),
    "a nested checkpoint": (with_("state_dict", {"p1": 1}), BundleError, "'state_dict' is no tensor"),
    "text": (with_("p1.0.conv.weight", "x"), BundleError, "no tensor"),
    "a 3x3 convolution": (with_("p1.0.conv.weight", torch.zeros(12, 6, 3, 3)), ShapeError, "p1.0.conv.weight"),
    "a vector": (with_("mixer.2.conv.weight", torch.zeros(5)), ShapeError, "mixer.2.conv.weight"),
    "no columns": (with_("p1.0.conv.weight", torch.zeros(12, 0)), ShapeError, "old_dim"),
    "another width": (with_("p1.1.conv.weight", torch.zeros(10, 11)), ShapeError, r"p1.1.conv.weight is \[10, 11\]"),
    "another bias": (with_("mixer.2.conv.bias", torch.zeros(4)), ShapeError, "mixer.2.conv.bias"),
    "another norm": (with_("mixer.0.normalizer.bias", torch.zeros(1)), ShapeError, "mixer.0.normalizer.bias"),
    "NaN": (with_("mixer.2.conv.bias", torch.full((5,), float("nan"))), NonFiniteError, "mixer.2.conv.bias"),
    "beyond float32": (with_("mixer.2.conv.bias", np.full(5, 1e300)), NonFiniteError, "mixer.2.conv.bias"),
    "negative variance": (with_("p1.0.normalizer.running_var", -torch.ones(12)), NonFiniteError, "negative"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_such_transform(case):
    change, error, match = BAD[case]
    state = dict(trained().state_dict())
    change(state)
    with pytest.raises(error, match=match):
        from_ml_fct(state)


def test_a_module_or_a_head_per_dimension_is_refused():
    with pytest.raises(BundleError, match="call .state_dict"):
        from_ml_fct(trained())
    with pytest.raises(ShapeError, match=r"only a head of one output, \[1, 5\]"):
        from_ml_fct(trained(sigma=5).state_dict())
