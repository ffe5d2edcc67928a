"""An interpolated query is the NLERP of plain numpy, SLERP's direction is one of its shares, and the best share is
chosen as a search by scikit-learn would choose it."""

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors

from fct_fast import Upgrader
from fct_fast.errors import ConfigError, ShapeError
from fct_fast.spec import Branch, Layer, TransformSpec
from fct_fast.training.maps.interpolation import SHARES, _neighbours, fit_interpolation, interpolate
from fct_fast.training.maps.procrustes import fit_procrustes
from fct_fast.training.pairs import Pairs


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def linear(weight, bias=None):
    weight = np.asarray(weight, np.float32)
    bias = np.zeros(len(weight), np.float32) if bias is None else np.asarray(bias, np.float32)
    new_dim, old_dim = weight.shape
    return TransformSpec(old_dim, 0, new_dim, (Branch("old", ()),), (Layer(weight, bias, relu=False),))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_is_nlerp_of_unit_queries_under_a_rotation(share):
    rng = np.random.default_rng(0)
    rotation = ortho_group.rvs(6, random_state=1)
    new, old = unit(rng.normal(size=(50, 6))), unit(rng.normal(size=(50, 6)))
    spec = interpolate(linear(rotation), share)
    expected = unit(share * new @ rotation.T + (1 - share) * old)
    np.testing.assert_allclose(spec.apply_float64(new, old), expected, atol=1e-6)
    got = Upgrader(spec)(new.astype(np.float32), old.astype(np.float32))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_slerp_points_where_an_nlerp_of_another_share_points():
    rng = np.random.default_rng(2)
    new, old = unit(rng.normal(size=(1, 5))), unit(rng.normal(size=(1, 5)))
    angle, share = np.arccos((new * old).sum()), 0.3
    slerp = (np.sin(share * angle) * new + np.sin((1 - share) * angle) * old) / np.sin(angle)
    other = np.sin(share * angle) / (np.sin(share * angle) + np.sin((1 - share) * angle))
    assert abs(other - share) > 0.001
    np.testing.assert_allclose(interpolate(linear(np.eye(5)), other).apply_float64(new, old), slerp, atol=1e-6)


def test_a_deep_map_of_other_dimensions_and_norms(make_transform, rows):
    query_map = make_transform(old_dim=12, new_dim=8, side_dim=0, uncertainty=True).to_spec()
    new, old = rows(40, 12), 30 * rows(40, 8, seed=1)
    spec = interpolate(query_map, 0.6, mapped_norm=4.0, old_norm=90.0)
    mapped = query_map.apply_float64(new, normalize=False)[:, :8]
    expected = unit(0.6 * mapped / 4 + 0.4 * old / 90)
    np.testing.assert_allclose(spec.apply_float64(new, old), expected, atol=1e-6)
    np.testing.assert_allclose(Upgrader(spec)(new, old), expected, atol=3e-6)
    assert (spec.old_dim, spec.side_dim, spec.new_dim, spec.uncertainty) == (12, 8, 8, False)


def noisy_spaces(n=240, seed=3):
    """The old model sees half of what the new one sees, and a little noise; classes differ in all of it."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 12, n)
    new = rng.normal(size=(12, 16))[classes] + 0.9 * rng.normal(size=(n, 16))
    old = new[:, :8] @ ortho_group.rvs(8, random_state=5) + 0.8 * rng.normal(size=(n, 8))
    return new.astype(np.float32), old.astype(np.float32), classes


def choose(new, old, classes, share=None):
    pairs = Pairs.of(new, None, old, torch.device("cpu"))
    train, held = torch.arange(120), torch.arange(120, 240)
    query_map, _ = fit_procrustes(pairs, train, train[:0], kind="centred", normalize=True)
    spec, chosen = fit_interpolation(query_map, pairs, train, held, share=share, classes=classes)
    return query_map, spec, chosen


@pytest.mark.parametrize("by_labels", [True, False])
def test_the_share_is_what_a_plain_search_of_the_held_out_rows_prefers(by_labels):
    new, old, classes = noisy_spaces()
    query_map, spec, chosen = choose(new, old, classes if by_labels else None)
    mapped = query_map.apply_float64(new, normalize=False)
    norms = [np.linalg.norm(x[:120], axis=1).mean() for x in (mapped, old)]
    assert [chosen["mapped_norm"], chosen["old_norm"]] == pytest.approx(norms)

    def neighbours(queries, gallery):
        found = NearestNeighbors(n_neighbors=11).fit(unit(gallery)).kneighbors(unit(queries))[1]
        return [set([j for j in row if j != i][:10]) for i, row in enumerate(found)]

    def quality(share):
        queries = unit(share * mapped / norms[0] + (1 - share) * old / norms[1])[120:]
        if not by_labels:
            pairs = zip(neighbours(new[120:], new[120:]), neighbours(queries, old[120:]), strict=True)
            return np.mean([len(a & b) for a, b in pairs])
        scores, labels, total = queries @ unit(old[120:]).T, classes[120:], []
        for i in range(120):
            others = np.arange(120) != i
            total.append(average_precision_score(labels[others] == labels[i], scores[i, others]))
        return np.mean(total)

    best = max(SHARES, key=quality)
    assert 0 < best < 1
    assert chosen["share"] == best
    expected = unit(best * mapped / norms[0] + (1 - best) * old / norms[1])
    np.testing.assert_allclose(spec.apply_float64(new, old), expected, atol=1e-5)


def test_neighbours_leave_out_the_row_itself_also_among_many_copies():
    rng = np.random.default_rng(6)
    queries, gallery = (rng.normal(size=(30, 4)).astype(np.float32) for _ in range(2))
    scores = unit(queries) @ unit(gallery).T
    np.fill_diagonal(scores, -np.inf)
    assert np.array_equal(_neighbours(queries, gallery, 5), np.argsort(-scores, axis=1)[:, :5])
    copies = _neighbours(queries[:1].repeat(30, axis=0), gallery[:1].repeat(30, axis=0), 5)
    assert copies.shape == (30, 5)
    assert not (copies == np.arange(30)[:, None]).any()


def test_the_scales_of_both_spaces_do_not_matter():
    new, old, classes = noisy_spaces()
    _, spec, chosen = choose(new, old, classes)
    _, other, same = choose(0.01 * new, 70 * old, classes)
    assert same["share"] == chosen["share"]
    np.testing.assert_allclose(other.apply_float64(0.01 * new, 70 * old), spec.apply_float64(new, old), atol=1e-5)


def test_a_given_share_needs_no_held_out_rows():
    new, old, _ = noisy_spaces()
    pairs = Pairs.of(new, None, old, torch.device("cpu"))
    train = torch.arange(240)
    query_map, _ = fit_procrustes(pairs, train, train[:0], kind="plain", normalize=True)
    assert fit_interpolation(query_map, pairs, train, train[:0], share=0.4)[1]["share"] == 0.4
    with pytest.raises(ConfigError, match="share of a map is chosen on held-out rows"):
        fit_interpolation(query_map, pairs, train, train[:2])


def test_what_cannot_be_interpolated(small_spec):
    query_map = linear(np.eye(4))
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="share is"):
            interpolate(query_map, share)
    with pytest.raises(ConfigError, match="mean norms are above 0"):
        interpolate(query_map, 0.5, mapped_norm=0.0)
    with pytest.raises(ConfigError, match="one branch and no side-information"):
        interpolate(small_spec, 0.5)
    new, old, _ = noisy_spaces()
    rows = torch.arange(240)
    with pytest.raises(ShapeError, match="4 -> 4, but the pairs are 16 -> 8"):
        fit_interpolation(query_map, Pairs.of(new, None, old, torch.device("cpu")), rows, rows)
    with pytest.raises(ConfigError, match="no side-information"):
        fit_interpolation(query_map, Pairs.of(old, old, old, torch.device("cpu")), rows, rows)
