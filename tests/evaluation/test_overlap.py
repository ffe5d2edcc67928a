"""overlap: the share of true neighbours kept, against sets computed by numpy."""

from __future__ import annotations

import numpy as np
import pytest

from fct_fast import errors, overlap


def test_same_rows_keep_everything(rows):
    x = rows(200, 16)
    assert overlap(x, x, k=10).mean == 1.0


@pytest.mark.parametrize("own", [True, False])
def test_against_sets(own, rows):
    new, queries = rows(300, 8), None if own else rows(20, 8, 2)
    upgraded = new + 0.3 * rows(300, 8, 1)
    asked = new if own else queries

    def nearest(gallery):
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (asked, gallery)]
        scores = unit[0].astype(np.float64) @ unit[1].T.astype(np.float64)
        if own:
            np.fill_diagonal(scores, -np.inf)
        return np.argsort(-scores, axis=1)[:, :10]

    want = [len(set(a) & set(b)) / 10 for a, b in zip(nearest(new), nearest(upgraded), strict=True)]
    got = overlap(upgraded, new, k=10, queries=queries)
    np.testing.assert_allclose(got.per_query, want)
    assert got.mean == pytest.approx(np.mean(want))
    assert 0.3 < float(got) < 0.99


def test_copies_of_a_row_do_not_break_leaving_it_out():
    """With many equal rows the row itself may not be among its own nearest."""
    x = np.ones((50, 4), np.float32)
    assert overlap(x, x, k=5).mean == 1.0


def test_shapes_must_pair_up(rows):
    with pytest.raises(errors.ShapeError, match="one item"):
        overlap(rows(5, 4), rows(6, 4))
    with pytest.raises(errors.ShapeError, match="k is 10; with 10 rows"):
        overlap(rows(10, 4), rows(10, 4), k=10)
    with pytest.raises(errors.ShapeError, match="k is 0"):
        overlap(rows(10, 4), rows(10, 4), k=0)
    with pytest.raises(errors.ShapeError, match="no queries"):
        overlap(rows(10, 4), rows(10, 4), k=3, queries=rows(0, 4))
