"""A sample to re-embed is spread over the gallery as its rows are, and says why it has its size."""

from __future__ import annotations

import numpy as np
import pytest

from fct_fast.errors import ConfigError, ShapeError
from fct_fast.study.sample import sample_rows


def gallery(sizes: tuple[int, ...], dim: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(len(sizes), dim)) * 5
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return (centres[groups] + 0.1 * rng.normal(size=(len(groups), dim))).astype(np.float32), groups


def test_each_region_gives_its_share_and_none_is_left_out():
    old, groups = gallery((6000, 3000, 960, 40))
    for seed in range(3):
        sample = sample_rows(old, count=500, seed=seed)
        assert len(np.unique(sample.rows)) == len(sample.rows) == 500
        assert (np.diff(sample.rows) > 0).all()
        found = np.bincount(groups[sample.rows], minlength=4)
        # By chance alone the standard deviation of the first would be 11; by clusters it is about one of rounding.
        np.testing.assert_allclose(found, [300, 150, 48, 2], atol=8)
        assert found[3] >= 1


def test_the_same_seed_gives_the_same_rows():
    old, _ = gallery((500, 500))
    assert np.array_equal(sample_rows(old, count=99, seed=4).rows, sample_rows(old, count=99, seed=4).rows)
    assert not np.array_equal(sample_rows(old, count=99, seed=4).rows, sample_rows(old, count=99, seed=5).rows)


def test_the_size_follows_the_widths_unless_it_is_asked_for():
    old, _ = gallery((9000, 9000), dim=64)
    assert len(sample_rows(old).rows) == 10_000
    assert len(sample_rows(np.tile(old, (1, 5))).rows) == 40 * 320
    small = sample_rows(old[:700])
    assert np.array_equal(small.rows, np.arange(700))
    assert "all 700 rows" in small.why
    assert "10,000 would be enough" in sample_rows(old, count=33).why


def test_side_information_tells_regions_apart_that_old_does_not():
    old = np.ones((4000, 4), np.float32)
    side, groups = gallery((3900, 100))
    found = np.bincount(groups[sample_rows(old, side, count=400).rows])
    np.testing.assert_allclose(found, [390, 10], atol=3)


def test_any_count_works_also_where_clusters_are_tiny():
    old, _ = gallery((5,) * 40)
    for count in (1, 2, 31, 32, 64, 199, 200):
        assert len(sample_rows(old, count=count).rows) == count


@pytest.mark.parametrize("count", [0, 201, -1])
def test_a_count_that_the_gallery_does_not_have_is_refused(count):
    with pytest.raises(ConfigError, match="200 rows"):
        sample_rows(gallery((100, 100))[0], count=count)


def test_rows_must_pair_up():
    old, _ = gallery((100, 100))
    with pytest.raises(ShapeError, match="as many rows"):
        sample_rows(old, old[:-1])
