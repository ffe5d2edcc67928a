"""A fingerprint measures exactly, survives JSON bit for bit, catches foreign rows and lets its own rows pass."""

import json
import subprocess
import sys

import numpy as np
import pytest

from fct_fast.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from fct_fast.space import QUANTILES, SpaceFingerprint

CLASSES = 40


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def embeddings(kind, n=4000, dim=64, seed=0, classes=range(CLASSES)):
    """Rows of a simulated model with classes: [n, dim] float32, labels [n]. The model depends on `kind` only."""
    model = np.random.default_rng(abs(hash_of(kind)))
    rng = np.random.default_rng(seed)
    centres = model.normal(size=(CLASSES, dim))
    labels = rng.choice(list(classes), n)
    x = centres[labels] + 0.6 * rng.normal(size=(n, dim))
    if kind == "relu":  # post-ReLU backbone features: non-negative, norms vary
        x = np.maximum(x, 0) * 2.3
    elif kind == "cone":  # contrastive features: a strong common direction
        x = x + 3 * model.normal(size=dim)
    elif kind == "unit":
        x = unit(x)
    elif kind == "wide":  # norms of one order of magnitude
        x = x * np.exp(rng.normal(size=(n, 1)) * 0.6)
    return x.astype(np.float32), labels


def hash_of(text):
    return int.from_bytes(text.encode(), "big")


KINDS = ["relu", "cone", "plain", "unit", "wide"]


# ---- measuring


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint8])
def test_statistics_equal_numpy_in_float64(dtype):
    x = (np.random.default_rng(0).normal(size=(777, 13)) * 20 + 50).astype(dtype)
    f = SpaceFingerprint.measure(x, model_id="m", metric="l2")
    x = x.astype(np.float64)
    norms = np.linalg.norm(x, axis=1)
    assert (f.model_id, f.metric, f.dim, f.rows, f.normalized) == ("m", "l2", 13, 777, False)
    assert f.mean_norm == pytest.approx(norms.mean(), rel=1e-12)
    np.testing.assert_allclose(f.norm_quantiles, np.quantile(norms, QUANTILES), rtol=1e-12)
    np.testing.assert_allclose(f.mean, x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(f.std, x.std(axis=0), rtol=1e-6)


def test_more_rows_than_a_chunk_and_a_large_offset():
    x = np.random.default_rng(0).normal(size=(40_000, 3)).astype(np.float32) + np.float32(10_000)
    f = SpaceFingerprint.measure(x)
    np.testing.assert_allclose(f.std, x.astype(np.float64).std(axis=0), rtol=1e-6)
    assert f == SpaceFingerprint.measure(x[:, ::-1][:, ::-1])  # a strided view measures the same


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_normalized_is_seen(dtype):
    x = unit(np.random.default_rng(0).normal(size=(500, 32))).astype(dtype)
    assert SpaceFingerprint.measure(x).normalized
    assert not SpaceFingerprint.measure(x * dtype(1.2)).normalized
    x[7] = 0  # a row that could not be normalised
    assert SpaceFingerprint.measure(x).normalized


def test_one_row_and_constant_and_zero_rows():
    assert SpaceFingerprint.measure([[3.0, 4.0]]).norm_quantiles == (5.0,) * len(QUANTILES)
    assert SpaceFingerprint.measure(np.ones((10, 2))).std.tolist() == [0, 0]
    assert SpaceFingerprint.measure(np.zeros((10, 2))).mean_norm == 0


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (np.zeros((0, 4)), ShapeError),
        (np.zeros((4, 0)), ShapeError),
        (np.zeros(4), ShapeError),
        (np.zeros((2, 2, 2)), ShapeError),
        (np.array([["a", "b"]]), DtypeError),
        (np.array([[1 + 2j]]), DtypeError),
        (np.array([[1e300, 0.0]]), NonFiniteError),
    ],
)
def test_refuses_what_is_no_matrix_of_numbers(rows, error):
    with pytest.raises(error):
        SpaceFingerprint.measure(rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_names_the_first_bad_row(bad):
    x = np.ones((20_000, 2), np.float32)
    x[17_001, 1] = bad
    x[18_000, 0] = bad
    with pytest.raises(NonFiniteError, match="row 17001 "):
        SpaceFingerprint.measure(x)


# ---- JSON


@pytest.mark.parametrize("kind", KINDS)
def test_json_round_trip_is_exact(kind):
    f = SpaceFingerprint.measure(embeddings(kind)[0], model_id="rés-50", metric="ip")
    back = SpaceFingerprint.from_json(json.loads(json.dumps(f.to_json())))
    assert back == f
    assert back.digest == f.digest
    assert np.array_equal(back.mean, f.mean)
    assert np.array_equal(back.std, f.std)
    assert hash(back) == hash(f)


def test_digest_sees_every_field():
    f = SpaceFingerprint.measure(embeddings("relu")[0])
    document = f.to_json()
    changes = {
        "model_id": "x",
        "normalized": True,
        "metric": "l2",
        "rows": 5,
        "mean_norm": f.mean_norm + 1,
        "norm_quantiles": [q + 1 for q in f.norm_quantiles],
        "mean": [m + 1 for m in document["mean"]],
        "std": [m + 1 for m in document["std"]],
    }
    digests = {SpaceFingerprint.from_json({**document, key: value}).digest for key, value in changes.items()}
    assert len(digests | {f.digest}) == len(changes) + 1


def damaged():
    good = SpaceFingerprint.measure([[3.0, 4.0], [1.0, 0.0]]).to_json()
    yield from ({k: v for k, v in good.items() if k != name} for name in good)
    yield {**good, "more": 1}
    for name, values in {
        "model_id": [3, None, "x" * 257, "a\x1b[2Jb", "line\nline"],
        "dim": [3, 1, 0, -2, 2.0, True, "2"],
        "rows": [0, -1, 1.5, True],
        "normalized": [1, "yes", None],
        "metric": ["euclid", 1, None],
        "mean_norm": [-1, "1", None, float("inf"), float("nan"), True],
        "norm_quantiles": [[], [1] * 8, [2, 1] + [3] * 7, [-1] * 9, ["1"] * 9, [float("nan")] * 9, 3],
        "mean": [[1], [1, 2, 3], [1, None], [1, 1e39], [1, float("nan")], "ab", [[1], [2]]],
        "std": [[1, -1], [1, float("inf")], [1], None],
    }.items():
        yield from ({**good, name: value} for value in values)
    yield from ([], None, "x", 3)


@pytest.mark.parametrize("document", list(damaged()))
def test_refuses_damaged_documents(document):
    with pytest.raises(ConfigError):
        SpaceFingerprint.from_json(document)


# ---- a sample against the record


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 5, 31, 32, 100, 5000])
def test_rows_of_the_same_space_pass(kind, n):
    f = SpaceFingerprint.measure(embeddings(kind)[0])
    for seed in range(1, 21):
        assert f.mismatch(embeddings(kind, n=n, seed=seed)[0], "the source") is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 40, 1000])
def test_rows_of_one_class_and_of_unseen_classes_pass(kind, n):
    """A gallery is often sorted by class, and serves classes that h never saw."""
    f = SpaceFingerprint.measure(embeddings(kind, classes=range(20))[0])
    for label in range(CLASSES):
        assert f.mismatch(embeddings(kind, n=n, seed=3, classes=[label])[0], "the source") is None


@pytest.mark.parametrize("kind", ["relu", "cone", "plain", "wide"])
@pytest.mark.parametrize("n", [8, 100, 5000])
def test_unit_rows_for_raw_ones_are_caught(kind, n):
    f = SpaceFingerprint.measure(embeddings(kind)[0], model_id="resnet")
    message = f.mismatch(unit(embeddings(kind, n=n, seed=1)[0]), "the source")
    assert "the source has unit rows" in message
    assert "'resnet'" in message


def test_unit_rows_for_raw_ones_of_norm_around_one_are_caught():
    x = embeddings("wide")[0]
    x /= np.linalg.norm(x, axis=1).mean()
    assert "unit rows" in SpaceFingerprint.measure(x).mismatch(unit(x), "old")


@pytest.mark.parametrize("n", [1, 8, 5000])
def test_raw_rows_for_unit_ones_are_caught(n):
    x = embeddings("plain")[0]
    assert "L2-normalise" in SpaceFingerprint.measure(unit(x)).mismatch(x[:n], "old")


def test_unit_rows_from_an_8_bit_store_pass():
    x = unit(embeddings("plain")[0])
    f = SpaceFingerprint.measure(x)
    stored = np.round(x * 127 / np.abs(x).max()) * np.abs(x).max() / 127
    assert f.mismatch(stored, "old") is None
    assert SpaceFingerprint.measure(stored + 0.02).mismatch(x, "old") is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("factor", "n"),
    # one row cannot tell a factor of ten in a space whose norms span a factor of fifty
    [(f, n) for f in (1 / 255, 0.1, 10, 127) for n in (8, 100)] + [(1 / 255, 1), (127, 1)],
)
def test_another_scale_is_caught(kind, factor, n):
    f = SpaceFingerprint.measure(embeddings(kind)[0])
    assert f.mismatch(embeddings(kind, n=n, seed=1)[0] * np.float32(factor), "side") is not None


@pytest.mark.parametrize("kind", ["relu", "cone", "plain"])
def test_twice_the_scale_is_caught_where_norms_are_narrow(kind):
    f = SpaceFingerprint.measure(embeddings(kind)[0])
    assert "another scale" in f.mismatch(embeddings(kind, n=100, seed=1)[0] * 2, "side")


def test_another_offset_is_caught():
    x = embeddings("unit")[0]
    f = SpaceFingerprint.measure(
        x * np.linspace(0.01, 1, 64, dtype=np.float32) + 3
    )  # norms barely move with the offset
    flipped = 6 - (x * np.linspace(0.01, 1, 64, dtype=np.float32) + 3)
    assert f.mismatch(flipped + np.where(np.arange(64) % 2, 1.5, -1.5), "old") is not None
    assert f.mismatch(x * 0.1 + 3 + np.where(np.arange(64) % 2, 1, -1), "old") is not None


def test_centred_rows_and_another_model_are_caught_where_the_space_has_a_mean():
    x = embeddings("cone")[0]
    f = SpaceFingerprint.measure(x)
    centred = x - x.mean(axis=0)
    centred *= np.linalg.norm(x, axis=1).mean() / np.linalg.norm(centred, axis=1).mean()
    assert "mean direction" in f.mismatch(centred, "old")
    assert f.mismatch(np.roll(x, 1, axis=1), "old") is not None


def test_another_width_is_caught_also_with_no_rows():
    f = SpaceFingerprint.measure(np.ones((3, 4)))
    assert f.mismatch(np.ones((0, 5)), "old") == "old has 5 values a row, but the recorded space has 4"
    assert f.mismatch(np.ones((0, 4)), "old") is None


def test_bad_and_zero_rows_are_left_out_of_the_check():
    x = embeddings("relu")[0]
    f = SpaceFingerprint.measure(x)
    x[::3] = np.nan
    x[1::3] = 0
    x[5] = np.inf
    assert f.mismatch(x, "old") is None
    assert f.mismatch(np.full((5, 64), np.nan), "old") is None
    with pytest.raises(ShapeError):
        f.mismatch(x[0], "old")


# ---- two fingerprints


def test_conflicts():
    def f(x, model_id):
        return SpaceFingerprint.measure(x, model_id=model_id)

    x = embeddings("plain")[0]
    a = f(x, "a")
    assert a.conflict(f(x * 2, "a")) is None
    assert a.conflict(f(x, "")) is None
    assert f(x, "").conflict(a) is None
    assert "'a' and 'b'" in a.conflict(f(x, "b"))
    assert "64 and 63" in a.conflict(f(x[:, 1:], ""))
    assert "raw rows, the other unit rows" in a.conflict(f(unit(x), "a"))
    assert "unit rows, the other raw rows" in f(unit(x), "").conflict(a)


def test_needs_numpy_only():
    code = "import sys, fct_fast.space; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
