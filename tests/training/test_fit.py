"""`fit` learns, at any scale, from rows it may see only, the same for a seed, and says so in its metrics."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import fct_fast
from fct_fast.errors import ConfigError, DeviceError, DtypeError, NonFiniteError, ShapeError
from fct_fast.space import SpaceFingerprint
from fct_fast.training import FitConfig, FitResult, fit
from fct_fast.training.pairs import split_rows

QUICK = FitConfig(inner_dim=64, epochs=20, batch_size=128, lr=4e-3, warmup_epochs=1, device="cpu")
ONE = QUICK.replace(epochs=1)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices as small as these gain nothing from a second thread, and lose much where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def world(n: int = 1200, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of one hidden factor vector seen by three models: old and side see a part each, new sees all. Not linear."""
    model = np.random.default_rng(42)
    rng = np.random.default_rng(seed)
    labels = rng.integers(20, size=n)
    z = (model.normal(size=(20, 12))[labels] + 0.5 * rng.normal(size=(n, 12))).astype(np.float32)

    def see(z: np.ndarray, dim: int) -> np.ndarray:
        hidden = np.tanh(z @ model.normal(size=(12, 48)) / 1.5)
        return np.maximum(hidden @ model.normal(size=(48, dim)) / 7 + 0.3, 0).astype(np.float32)

    parts = np.arange(12)
    return {"old": see(z * (parts < 8), 24), "side": see(z * (parts > 4), 16), "new": see(z, 20), "labels": labels}


@pytest.fixture(scope="module")
def data(one_thread: None) -> dict[str, np.ndarray]:
    return world()


def arrays(data: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {name: data[name] for name in names or ("old", "side", "new")}


@pytest.fixture(scope="module")
def result(data: dict[str, np.ndarray]) -> FitResult:
    return fit(**arrays(data), labels=data["labels"], config=QUICK)


def oracle(result: FitResult, data: dict[str, np.ndarray]) -> np.ndarray:
    """h before normalisation, by the spec's float64 meaning."""
    return result.transform.to_spec().apply_float64(data["old"], data.get("side"), normalize=False)


def r2(out: np.ndarray, new: np.ndarray) -> float:
    return 1 - float(np.square(out - new).sum() / np.square(new - new.mean(axis=0)).sum())


# ---- it learns


def test_learns_what_a_line_cannot_and_uses_side_information(data, result):
    fresh = world(seed=1)
    assert r2(oracle(result, fresh), fresh["new"]) > 0.7
    held = result.metrics["held_out"]
    assert held["r2"] == pytest.approx(r2(oracle(result, fresh), fresh["new"]), abs=0.05)
    assert held["r2"] > result.metrics["ridge"]["r2"] + 0.03
    without = fit(**arrays(data, "old", "new"), config=QUICK)
    assert without.metrics["held_out"]["r2"] < held["r2"] - 0.1
    assert result.metrics["loss"][-1] < 0.2 * result.metrics["loss"][0]


def test_what_it_returns(data, result):
    h = result.transform
    assert not h.training
    assert (h.old_dim, h.side_dim, h.new_dim, h.normalize) == (24, 16, 20, True)
    assert next(h.parameters()).device.type == "cpu"
    assert result.pairs == 1200
    assert result.config == QUICK
    assert result.metrics["train_rows"] + result.metrics["held_out_rows"] == 1200
    assert abs(result.metrics["held_out_rows"] - 120) <= 20
    assert len(result.metrics["loss"]) == QUICK.epochs
    assert result.spaces == {name: SpaceFingerprint.measure(x) for name, x in arrays(data).items()}
    assert h.spaces == result.spaces
    json.dumps(result.summary, allow_nan=False)


def test_retrieval_is_measured_where_labels_are_given(data, result):
    _, rows = split_rows(1200, QUICK.held_out, np.random.default_rng(QUICK.seed), data["labels"])
    labels, mapped, new = data["labels"][rows], oracle(result, data)[rows], data["new"][rows]
    for name, gallery in {"held_out": mapped, "new": new}.items():
        expected = fct_fast.evaluate(new, gallery.astype(np.float32), labels, exclude_self=True)
        assert result.metrics[name]["map"] == pytest.approx(expected.map, abs=1e-4)
        assert result.metrics[name]["cmc5"] == pytest.approx(expected.cmc[5], abs=1e-4)
    assert result.metrics["held_out"]["map"] > result.metrics["ridge"]["map"] > 0.4
    plain = fit(**arrays(data), config=ONE)
    assert "map" not in plain.metrics["held_out"]
    assert "new" not in plain.metrics


def test_normalize_changes_the_output_only(data, result):
    raw = fit(**arrays(data), labels=data["labels"], config=QUICK.replace(normalize=False))
    assert not raw.transform.normalize
    assert raw.metrics == result.metrics
    old, side = torch.from_numpy(data["old"][:9]), torch.from_numpy(data["side"][:9])
    with torch.no_grad():
        assert torch.equal(raw.transform(old, side), result.transform.raw(old, side))
        torch.testing.assert_close(result.transform(old, side).norm(dim=1), torch.ones(9))


def test_a_fit_becomes_a_bundle_and_runs_in_the_kernel(data, result, tmp_path):
    path = tmp_path / "h.safetensors"
    fct_fast.save(result, path, old_space="small", side_space="simclr", new_space="large")
    bundle = fct_fast.bundle.read_bundle(path)
    assert bundle.spaces["new"].model_id == "large"
    assert bundle.training == result.summary
    assert bundle.scales == result.scales
    new = fct_fast.Upgrader(path)(data["old"], data["side"])
    expected = result.transform.to_spec().apply_float64(data["old"], data["side"])
    assert np.abs(new - expected).max() < 1e-5


def test_activation_maxima_are_those_of_the_folded_layers(data, result):
    spec, scales = result.transform.to_spec(), result.scales
    hidden = {name: layer for name, layer in spec.named_layers() if layer.relu}
    assert list(scales["activation_max"]) == list(hidden)
    assert scales["rows"] == result.metrics["train_rows"]
    first = hidden["branches.0.0"]
    out = np.maximum(data["old"].astype(np.float64) @ first.weight.T + first.bias, 0)
    measured = np.array(scales["activation_max"]["branches.0.0"])
    assert (measured <= out.max(axis=0) + 1e-5).all()  # training rows are a part of all rows
    assert np.isclose(measured, out.max(axis=0), atol=1e-5).mean() > 0.7


# ---- scale


@pytest.mark.parametrize(("old", "side", "new"), [(1e3, 1e-3, 1e3), (1e-3, 1e3, 1e-3), (1, 1, 1e-12), (1e12, 1, 1)])
def test_fit_is_scale_free(data, result, old, side, new):
    factors = {"old": old, "side": side, "new": new}
    scaled = {name: x * np.float32(factors[name]) for name, x in arrays(data).items()}
    again = fit(**scaled, labels=data["labels"], config=QUICK)
    assert again.metrics["loss"] == pytest.approx(result.metrics["loss"], rel=1e-2)
    assert again.metrics["held_out"]["r2"] == pytest.approx(result.metrics["held_out"]["r2"], abs=5e-3)
    assert again.metrics["ridge"]["r2"] == pytest.approx(result.metrics["ridge"]["r2"], abs=1e-4)
    assert again.metrics["held_out"]["mse"] == pytest.approx(result.metrics["held_out"]["mse"] * new**2, rel=2e-2)
    assert r2(oracle(again, scaled), scaled["new"]) > 0.7  # the output has the true scale


# ---- which rows it sees


def test_held_out_rows_are_never_trained_on(data):
    """Replacing the held-out rows by nonsense changes nothing in h."""
    first = fit(**arrays(data), config=ONE)
    changed = {name: x.copy() for name, x in arrays(data).items()}
    _, held = split_rows(1200, ONE.held_out, np.random.default_rng(ONE.seed))
    assert len(held) == 120
    for x in changed.values():
        x[held] = 1000 * np.random.default_rng(3).normal(size=(120, x.shape[1]))
    second = fit(**changed, config=ONE)
    assert second.transform.to_spec() == first.transform.to_spec()
    assert second.scales == first.scales
    assert second.metrics["loss"] == first.metrics["loss"]
    assert second.metrics["held_out"] != first.metrics["held_out"]


def test_no_rows_held_out(data):
    result = fit(**arrays(data), config=ONE.replace(held_out=0))
    assert result.metrics.keys() == {"train_rows", "held_out_rows", "loss"}
    assert result.metrics["train_rows"] == 1200


def test_views_are_drawn_and_view_0_is_what_is_stored(data):
    rng = np.random.default_rng(0)
    views = {name: np.stack([x, x + 0.05, x - 0.05]).astype(np.float16) for name, x in arrays(data).items()}
    result = fit(**views, config=QUICK)
    assert result.spaces["old"] == SpaceFingerprint.measure(views["old"][0])
    assert result.pairs == 1200
    assert result.metrics["held_out"]["r2"] > 0.68
    # every view is trained on: ruining one ruins the fit
    broken = {name: x.copy() for name, x in views.items()}
    broken["new"][2] = rng.permutation(broken["new"][2])
    assert fit(**broken, config=QUICK).metrics["held_out"]["r2"] < result.metrics["held_out"]["r2"] - 0.05
    # an array without views pairs with each view of the others
    mixed = fit(old=views["old"], side=data["side"], new=data["new"], config=QUICK)
    assert mixed.metrics["held_out"]["r2"] > 0.68


# ---- determinism


def test_a_seed_decides_all_and_the_global_state_is_left_alone(data):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = fit(**arrays(data), config=ONE)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    np.random.seed(3)  # noqa: NPY002
    second = fit(**arrays(data), config=ONE)
    assert second.transform.to_spec() == first.transform.to_spec()
    assert second.metrics == first.metrics
    third = fit(**arrays(data), config=ONE.replace(seed=1))
    assert third.transform.to_spec() != first.transform.to_spec()


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16", "tensor", "strided", "read-only", "big-endian"])
def test_arrays_of_any_floating_kind(data, kind):
    def convert(x: np.ndarray) -> object:
        match kind:
            case "bfloat16":
                return torch.from_numpy(x).bfloat16()
            case "tensor":
                return torch.from_numpy(x).requires_grad_()
            case "strided":
                return np.repeat(x, 2, axis=1)[:, ::2]
            case "read-only":
                copy = x.copy()
                copy.setflags(write=False)
                return copy
            case "big-endian":
                return x.astype(">f4")
            case _:
                return x.astype(kind)

    expected = fit(**arrays(data), config=ONE)
    result = fit(**{name: convert(x) for name, x in arrays(data).items()}, config=ONE)
    if kind in ("float16", "bfloat16"):
        assert result.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=0.05)
    else:
        assert result.transform.to_spec() == expected.transform.to_spec()


def test_on_epoch_is_told_of_each_epoch(data):
    told: list[tuple[int, float]] = []
    result = fit(**arrays(data), config=QUICK.replace(epochs=3), on_epoch=lambda *x: told.append(x))
    assert told == list(enumerate(result.metrics["loss"]))


# ---- small and odd fits


def test_the_smallest_fits_run():
    small = world(16)
    for held_out in (0, 0.1, 0.5):
        result = fit(**arrays(small), config=QUICK.replace(epochs=2, held_out=held_out))
        json.dumps(result.summary, allow_nan=False)
        assert np.isfinite(oracle(result, small)).all()
    tails = QUICK.replace(epochs=1, batch_size=2, held_out=0)  # 17 rows in batches of 2: none of 1
    fit(**arrays(world(17)), config=tails)


def test_a_short_fit_has_batch_norm_statistics_of_its_own(data):
    """Running statistics would still be near their start after so few steps, and h useless."""
    for switch in (True, False):
        config = QUICK.replace(epochs=4, batch_size=1024, warmup_epochs=0.5, eval_mode_switch=switch)
        assert fit(**arrays(data), config=config).metrics["held_out"]["r2"] > 0


def test_dead_dimensions_do_no_harm(data):
    dead = {name: x.copy() for name, x in arrays(data).items()}
    for x in dead.values():
        x[:, ::3] = 0
    result = fit(**dead, config=QUICK)
    assert result.metrics["held_out"]["r2"] > 0.6
    assert np.isfinite(oracle(result, dead)).all()


# ---- ridge


def test_ridge_is_a_transform_too(data, tmp_path):
    config = FitConfig(method="ridge", device="cpu")
    result = fit(**arrays(data), labels=data["labels"], config=config)
    assert result.metrics["held_out"]["r2"] > 0.5
    assert result.scales == {}
    fct_fast.save(result, tmp_path / "h.safetensors")
    new = fct_fast.Upgrader(fct_fast.load(tmp_path / "h.safetensors"))(data["old"], data["side"])
    expected = oracle(result, data)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(new - expected).max() < 1e-5


def test_ridge_as_baseline_is_the_same_ridge(data):
    alone = fit(**arrays(data), config=FitConfig(method="ridge", device="cpu"))
    baseline = fit(**arrays(data), config=ONE).metrics["ridge"]
    assert {**alone.metrics["held_out"], "strength": alone.metrics["strength"]} == pytest.approx(baseline)
    assert "ridge" not in fit(**arrays(data), config=ONE.replace(baseline=False)).metrics


# ---- bad input


def bad_inputs():
    good = arrays(world(40))
    nan, inf, huge = (good["side"].copy() for _ in range(3))
    nan[7, 3], inf[9, 0] = np.nan, -np.inf
    huge = huge.astype(np.float64)
    huge[11, 1] = 1e300
    views = np.stack([good["old"]] * 3)
    bad_view = views.copy()
    bad_view[2, 5, 0] = np.nan
    yield "rows", {"side": good["side"][:-1]}, ShapeError, "old has 40, side has 39, new has 40"
    yield "few", {name: x[:15] for name, x in good.items()}, ShapeError, "at least 16 pairs, got 15"
    yield "none", {name: x[:0] for name, x in good.items()}, ShapeError, "got 0"
    yield "flat", {"new": good["new"][0]}, ShapeError, r"new must be \[rows, dim\]"
    yield "wide", {"old": good["old"][None, None]}, ShapeError, "old must be"
    yield "no columns", {"side": good["side"][:, :0]}, ShapeError, "side must be"
    yield "views", {"old": views, "new": np.stack([good["new"]] * 2)}, ShapeError, "views must pair up"
    yield "integers", {"old": good["old"].astype(np.int32)}, DtypeError, "old must hold"
    yield "integer tensor", {"old": torch.ones(40, 3, dtype=torch.int8)}, DtypeError, "old must hold"
    yield "complex", {"old": good["old"].astype(np.complex64)}, DtypeError, "old must hold"
    yield "long double", {"old": good["old"].astype(np.longdouble)}, DtypeError, "old must hold"
    yield "list", {"old": good["old"].tolist()}, DtypeError, "old must be a numpy array"
    yield "NaN", {"side": nan}, NonFiniteError, "side holds NaN.* in row 7"
    yield "Inf", {"side": inf}, NonFiniteError, "side holds NaN or Inf .* in row 9"
    yield "beyond float32", {"side": huge}, NonFiniteError, "side .* row 11"
    yield "NaN in a view", {"old": bad_view}, NonFiniteError, "old .* row 5 of view 2"
    yield "constant new", {"new": np.ones_like(good["new"])}, ConfigError, "every row of new is the same"
    yield "zero side", {"side": np.zeros_like(good["side"])}, ConfigError, "every row of side is the same"
    yield "labels", {"labels": np.zeros(39)}, ShapeError, "labels must have one entry for each of the 40 rows"
    yield "groups", {"groups": np.zeros((40, 2))}, ShapeError, "groups must have"
    yield "one group", {"groups": np.zeros(40)}, ConfigError, "one group"
    yield "classifier", {"classifier": torch.nn.Linear(20, 5)}, ConfigError, "classifier"


@pytest.mark.parametrize(("change", "error", "match"), [x[1:] for x in bad_inputs()], ids=[x[0] for x in bad_inputs()])
def test_bad_input_is_refused_with_a_sentence(change, error, match):
    with pytest.raises(error, match=match):
        fit(**{**arrays(world(40)), **change}, config=ONE)


def test_keyword_only(data):
    with pytest.raises(TypeError):
        fit(data["old"], data["new"])


def test_a_training_that_diverges_says_so(data):
    with pytest.raises(NonFiniteError, match="lower lr"):
        fit(**arrays(data), config=QUICK.replace(lr=1e30, warmup_epochs=0))


def test_a_missing_gpu_is_a_sentence(data):
    if torch.cuda.is_available():
        assert fit(**arrays(data), config=ONE.replace(device="cuda")).metrics["loss"]
        return
    with pytest.raises(DeviceError, match="no usable GPU"):
        fit(**arrays(data), config=ONE.replace(device="cuda"))


class TestInterpolation:
    """A query map that is mixed with the old model's query is an h like any other: new as `old`, old as `side`."""

    @pytest.mark.parametrize("method", ["ridge", "procrustes", "residual"])
    def test_reads_both_queries_and_finds_more(self, data, method, tmp_path):
        config = QUICK.replace(method=method, direction="query", interpolation="auto", epochs=3)
        mixed = fit(old=data["old"], new=data["new"], labels=data["labels"], config=config)
        plain = fit(old=data["old"], new=data["new"], labels=data["labels"], config=config.replace(interpolation=None))
        chosen = mixed.metrics["interpolation"]
        assert mixed.metrics["held_out"] == plain.metrics["held_out"]
        assert chosen["map"] >= max(plain.metrics["held_out"]["map"], mixed.metrics["new"]["map"])
        fct_fast.save(mixed, tmp_path / "q.safetensors")
        up = fct_fast.Upgrader(tmp_path / "q.safetensors", precision="fp32")
        mapped = plain.transform.to_spec().apply_float64(data["new"], normalize=False)
        want = (
            chosen["share"] * mapped / chosen["mapped_norm"] + (1 - chosen["share"]) * data["old"] / chosen["old_norm"]
        )
        np.testing.assert_allclose(
            up(data["new"], data["old"]), want / np.linalg.norm(want, axis=1)[:, None], atol=1e-5
        )

    def test_a_given_share_needs_nothing_held_out(self, data):
        config = QUICK.replace(method="affine", direction="query", interpolation=0.25, held_out=0)
        assert fit(old=data["old"], new=data["new"], config=config).metrics["interpolation"]["share"] == 0.25

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"interpolation": 0.5}, "direction='query'"),
            ({"direction": "query", "interpolation": "auto", "held_out": 0}, "held-out rows"),
            ({"direction": "query", "interpolation": 1.5}, "interpolation"),
        ],
    )
    def test_refused(self, options, words):
        with pytest.raises(ConfigError, match=words):
            FitConfig(**options)
