"""Codecs: each step does what its name says, costs the bytes it says, and refuses what it cannot do."""

import functools
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.decomposition import PCA as SklearnPCA

from fct_fast.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from fct_fast.side import Codec, fit_codec

SPECS = ["float32", "int8", "binary", "pq3", "truncate5", "pca4", "truncate7+pca3+int8", "pca6+binary", "pca9+pq4"]
DIM = 11


@functools.cache
def made_rows() -> np.ndarray:
    """Correlated, with an offset, a dimension that is constant and one after a ReLU."""
    rng = np.random.default_rng(0)
    made = rng.normal(size=(700, DIM)) @ rng.normal(size=(DIM, DIM)) + rng.normal(size=DIM) * 3
    made[:, 4] = 2.5
    made[:, 7] = np.maximum(made[:, 7], 0)
    return made.astype(np.float32)


@functools.cache
def fitted(spec: str) -> Codec:
    return fit_codec(spec, made_rows())


@pytest.fixture
def rows() -> np.ndarray:
    return made_rows().copy()


@pytest.mark.parametrize(
    ("spec", "bytes_per_item", "decoded_dim"),
    [
        ("float32", 44, 11),
        ("truncate5", 20, 5),
        ("pca4+float32", 16, 4),
        ("int8", 11, 11),
        ("binary", 2, 11),
        ("pca8+binary", 1, 8),
        ("pq11", 11, 11),
        ("pq1", 1, 11),
        ("pca9+pq4", 4, 9),
        ("truncate7+pca3+int8", 3, 3),
    ],
)
def test_bytes_per_item_is_what_the_codes_take(
    rows: np.ndarray, spec: str, bytes_per_item: int, decoded_dim: int
) -> None:
    codec = fitted(spec)
    codes = codec.encode(rows[:100])
    assert codec.bytes_per_item == bytes_per_item == codes.nbytes / 100
    assert codes.dtype == codec.dtype == (np.int8 if spec.endswith("int8") else np.uint8)
    decoded = codec.decode(codes)
    assert decoded.shape == (100, decoded_dim) == (100, codec.decoded_dim)
    assert decoded.dtype == np.float32
    assert codec.dim == DIM
    assert codec.spec in (spec, f"{spec}+float32")


@pytest.mark.parametrize("spec", SPECS)
def test_a_code_depends_on_its_row_alone_and_no_rows_are_fine(rows: np.ndarray, spec: str) -> None:
    codec = fitted(spec)
    codes = codec.encode(rows)
    assert np.array_equal(np.concatenate([codec.encode(rows[:1]), codec.encode(rows[1:])]), codes)
    assert np.array_equal(codec.encode(np.tile(rows, (20, 1))), np.tile(codes, (20, 1)))  # several chunks
    assert codec.encode(rows[:0]).shape == (0, codec.bytes_per_item)
    assert codec.decode(codes[:0]).shape == (0, codec.decoded_dim)


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_decoded_encodes_to_the_same_code(rows: np.ndarray, spec: str) -> None:
    """Else a gallery that is decoded and encoded again would drift. Of the quantiser alone: reductions have no inverse."""
    codec = fitted(spec)
    quantiser, reduced = Codec((), codec.quantiser), codec.decode(codec.encode(rows))
    assert np.array_equal(quantiser.decode(quantiser.encode(reduced)), reduced)


def test_float32_keeps_every_bit(rows: np.ndarray) -> None:
    codec = fit_codec("float32", rows)
    assert np.array_equal(codec.decode(codec.encode(rows)), rows)
    truncated = fit_codec("truncate3", rows)
    assert np.array_equal(truncated.decode(truncated.encode(rows)), rows[:, :3])


def test_int8_is_within_half_a_step_and_ends_at_the_fitted_range(rows: np.ndarray) -> None:
    codec = fit_codec("int8", rows)
    decoded = codec.decode(codec.encode(rows)).astype(np.float64)
    low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
    step = (high - low) / 254
    assert (np.abs(decoded - rows) <= step * 0.5001 + 1e-6 * np.abs(rows)).all()
    assert np.abs(decoded - rows).max() > 0.4 * step.max()  # it is the error of 8 bits, not of none
    assert (decoded[:, 4] == 2.5).all()
    beyond = codec.decode(codec.encode(np.stack([low - 9 * step - 1, high + 9 * step + 1])))
    np.testing.assert_allclose(beyond, [low, high], rtol=1e-5, atol=1e-5)


def test_binary_is_the_sign_of_the_centred_value_and_decodes_to_conditional_means(rows: np.ndarray) -> None:
    codec = fit_codec("binary", rows)
    codes, exact = codec.encode(rows), rows.astype(np.float64)
    decoded = codec.decode(codes)
    for dim in (0, 7, 10):
        above = exact[:, dim] > exact[:, dim].mean()
        assert np.array_equal(codes[:, dim // 8] >> (7 - dim % 8) & 1, above)
        for side in (above, ~above):
            np.testing.assert_allclose(decoded[side, dim], exact[side, dim].mean(), rtol=1e-5)
    assert (decoded[:, 4] == 2.5).all()  # a constant is no bit, but it comes back


def test_pca_is_scikit_learns(rows: np.ndarray) -> None:
    codec = fit_codec("pca4", rows)
    theirs = SklearnPCA(4, svd_solver="full").fit(rows.astype(np.float64))
    signs = np.sign(theirs.components_[range(4), np.abs(theirs.components_).argmax(axis=1)])
    expected = theirs.transform(rows.astype(np.float64)) * signs
    np.testing.assert_allclose(codec.decode(codec.encode(rows)), expected, rtol=1e-4, atol=1e-4)


def test_pq_takes_the_nearest_centroid_far_from_zero_too(rows: np.ndarray) -> None:
    """Against plain distances; with an offset of 10,000, float32 products would lose the differences."""
    for shift in (0, 10_000):
        shifted = rows + np.float32(shift)
        codec = fit_codec("pq3", shifted)
        codes, at = codec.encode(shifted), 0
        for group, book in enumerate(codec.quantiser.codebooks):
            part = shifted[:, at : at + book.shape[1]].astype(np.float64)
            distances = np.square(part[:, None] - book[None].astype(np.float64)).sum(axis=2)
            chosen = distances[range(len(rows)), codes[:, group]]
            assert (chosen <= distances.min(axis=1) + 1e-6).all()
            at += book.shape[1]
        assert at == DIM
        error = np.square(codec.decode(codes) - shifted).mean() / rows.var(axis=0).mean()
        assert error < 0.15


def test_pq_loses_no_more_than_faiss() -> None:
    """On rows that the codebooks were not fitted on, at equal bytes."""
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(3)
    both = (rng.normal(size=(3000, 6)) @ rng.normal(size=(6, 6))).astype(np.float32)
    known, unseen = both[:2000], both[2000:]
    codec, theirs = fit_codec("pq2", known), faiss.ProductQuantizer(6, 2, 8)
    theirs.cp.min_points_per_centroid = 1  # else a warning
    theirs.train(known)
    ours = np.square(codec.decode(codec.encode(unseen)) - unseen).mean()
    assert ours < 1.05 * np.square(theirs.decode(theirs.compute_codes(unseen)) - unseen).mean()


def test_more_bytes_lose_less(rows: np.ndarray) -> None:
    errors = []
    for spec in ("binary", "pq2", "pq4", "pq11", "float32"):
        codec = fitted(spec)
        errors.append(float(np.square(codec.decode(codec.encode(rows)) - rows).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0


def test_the_seed_decides_the_codebooks(rows: np.ndarray) -> None:
    first, again, other = (fit_codec("pq1", rows, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.quantiser.codebooks[0], again.quantiser.codebooks[0])
    assert not np.array_equal(first.quantiser.codebooks[0], other.quantiser.codebooks[0])


def test_few_distinct_rows_need_few_centroids() -> None:
    """No warning of k-means, and every row comes back exactly."""
    few = np.array([[1, 2, 9], [1, 2, 9], [3, 4, 9]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codec = fit_codec("pq2", few)
    np.testing.assert_allclose(codec.decode(codec.encode(few)), few, rtol=1e-6)
    one = fit_codec("pca1+int8", few[:1])
    assert np.array_equal(one.decode(one.encode(few[:1])), [[0.0]])


def test_many_rows_are_sampled_and_all_are_checked() -> None:
    many = np.random.default_rng(0).normal(size=(70_000, 2)).astype(np.float16)
    codec = fit_codec("int8", many)
    assert np.abs(codec.decode(codec.encode(many)) - many).max() < 1
    many[69_999, 1] = np.nan
    with pytest.raises(NonFiniteError, match="row 69999"):
        fit_codec("int8", many)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("", "no codec step ''"),
        ("int4", "no codec step 'int4'"),
        ("pca", "no codec step 'pca'"),
        ("pca0", "no codec step"),
        ("pca٣", "no codec step"),
        ("int8+pca4", "int8 must be the last"),
        ("pca4+", "no codec step ''"),
        ("pca12", "1 to 11 of 11"),
        ("pca4+truncate5", "1 to 4 of 4"),
        ("pq12", "1 to 11 groups"),
        ("pca2+pq3", "1 to 2 groups"),
    ],
)
def test_specs_that_make_no_sense(rows: np.ndarray, spec: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        fit_codec(spec, rows)


def test_rows_and_codes_that_do_not_fit(rows: np.ndarray) -> None:
    codec, floats = fit_codec("pq3", rows[:50]), fitted("float32")
    codes = codec.encode(rows)
    with pytest.raises(ShapeError, match="10 values a row, this codec was fitted on 11"):
        codec.encode(rows[:, :10])
    with pytest.raises(ShapeError, match=r"\[11\]"):
        codec.encode(rows[0])
    with pytest.raises(DtypeError, match="int64"):
        codec.encode(rows.astype(np.int64))
    with pytest.raises(ShapeError, match="at least one row"):
        fit_codec("int8", rows[:0])
    with pytest.raises(ConfigError, match="not negative"):
        fit_codec("pq3", rows, seed=-1)
    for bad in (np.nan, np.inf, -np.inf):
        broken = rows.copy()
        broken[33, 2] = bad
        for act in (codec.encode, lambda x: fit_codec("int8", x)):
            with pytest.raises(NonFiniteError, match="row 33 "):
                act(broken)
    with pytest.raises(NonFiniteError, match="row 0 .* beyond float32"):
        codec.encode(np.full((1, DIM), 1e39))
    with pytest.raises(DtypeError, match="are uint8, got int8"):
        codec.decode(codes.astype(np.int8))
    with pytest.raises(ShapeError, match=r"\[rows, 3\], got \[700, 2\]"):
        codec.decode(codes[:, :2])
    codes[9, 1] = 50
    with pytest.raises(ConfigError, match="row 9 .* centroid 50 of 50"):
        codec.decode(codes)
    with pytest.raises(NonFiniteError, match="row 0 of the codes"):
        floats.decode(np.full((1, 44), 255, np.uint8))


def test_rows_at_the_end_of_float32() -> None:
    huge = np.array([[3e38, 1], [-3e38, 2]], np.float32)
    with pytest.raises(ConfigError, match="scale the rows down"):
        fit_codec("int8", np.concatenate([huge, [[3.4e38, 0], [-3.4e38, 0]]]).astype(np.float32))
    codec = fit_codec("int8", huge)
    np.testing.assert_allclose(codec.decode(codec.encode(huge)), huge, rtol=1e-5)
    wide = np.full((2, 4), 3e38, np.float32) * np.array([[1], [-1]], np.float32)
    with pytest.raises(NonFiniteError, match="row 0 .* pca step"):
        fit_codec("pca1", wide)
    along = fit_codec("pca1", np.array([[-1] * 4, [1] * 4], np.float32))
    late = np.zeros((9000, 4), np.float32)
    late[8999] = 3e38  # finite, but not along the diagonal
    with pytest.raises(NonFiniteError, match="row 8999 .* pca step"):
        along.encode(late)


def test_codecs_need_no_torch() -> None:
    code = (
        "import sys, numpy as np; from fct_fast.side import fit_codec; r = np.eye(4, dtype=np.float32);"
        "c = fit_codec('pca2+int8', r); c.decode(c.encode(r)); print({'torch', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
