"""compatibility_matrix: each cell is `evaluate` of its pair; Average Compatibility as CL2R's definition written out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fct_fast import errors, evaluate
from fct_fast.evaluation import average_compatibility, compatibility_matrix, update_gain


@pytest.fixture
def spaces(rows):
    labels = np.arange(120) % 12
    base = rows(120, 8) + rows(12, 8, 1)[labels]
    wide = rows(120, 10, 2) + 2 * rows(12, 10, 3)[labels]
    return {"old": base, "mapped": base + 0.5 * rows(120, 8, 4), "new": wide}, labels


class TestMatrix:
    def test_each_cell_is_evaluate(self, spaces):
        rows, labels = spaces
        got = compatibility_matrix(rows, labels, metric="l2", k=(1, 3))
        assert got.dims == {"old": 8, "mapped": 8, "new": 10}
        assert len(got.cells) == 9
        for (query, gallery), cell in got.cells.items():
            if (query == "new") != (gallery == "new"):
                assert cell is None
                continue
            want = evaluate(rows[query], rows[gallery], labels, metric="l2", k=(1, 3))
            assert (cell.map, cell.cmc) == (want.map, want.cmc)

    def test_values(self, spaces):
        rows, labels = spaces
        got = compatibility_matrix(rows, labels)
        assert got.values("map")[1, 0] == got.cells["mapped", "old"].map
        assert got.values(5)[0, 1] == got.cells["old", "mapped"].cmc[5]
        assert np.isnan(got.values()[2, 0])
        assert np.isnan(got.values()).sum() == 4
        with pytest.raises(errors.ConfigError, match=r"measure is 7; .* \[1, 5\]"):
            got.values(7)

    def test_pairs_alone(self, spaces):
        rows, labels = spaces
        got = compatibility_matrix(rows, labels, pairs=[("old", "old"), ("mapped", "old")])
        assert list(got.cells) == [("old", "old"), ("mapped", "old")]
        with pytest.raises(errors.ConfigError, match="'mapped'.*was not measured"):
            got.average_compatibility()

    def test_average_compatibility_of_the_matrix(self, spaces):
        """`new` cannot be compared with the two others: two violations, and mapped / old decides the third pair."""
        rows, labels = spaces
        got = compatibility_matrix(rows, labels)
        holds = got.cells["mapped", "old"].map > got.cells["old", "old"].map
        assert got.average_compatibility("map") == pytest.approx(holds / 3)
        both = compatibility_matrix({"a": rows["mapped"], "b": rows["old"]}, labels)
        assert both.average_compatibility() == float(both.cells["b", "a"].cmc[1] > both.cells["a", "a"].cmc[1])

    def test_json(self, spaces):
        rows, labels = spaces
        matrix = compatibility_matrix(rows, labels)
        got = json.loads(json.dumps(matrix.to_json()))
        assert got["spaces"][2] == {"name": "new", "dim": 10}
        by_pair = {(cell["query"], cell["gallery"]): cell for cell in got["cells"]}
        assert by_pair["old", "old"]["cmc"]["5"] == matrix.cells["old", "old"].cmc[5]
        assert by_pair["old", "new"]["map"] is None

    def test_bad_input(self, spaces, rows):
        some, labels = spaces
        with pytest.raises(errors.ShapeError, match="same item"):
            compatibility_matrix(some | {"short": rows(9, 8)}, labels)
        with pytest.raises(errors.ConfigError, match="space 'nwe'"):
            compatibility_matrix(some, labels, pairs=[("nwe", "old")])
        with pytest.raises(errors.ShapeError, match="no spaces"):
            compatibility_matrix({}, labels)


class TestAverageCompatibility:
    def test_by_the_definition(self):
        """1 - violations / (t (t - 1) / 2), a violation being M[i, j] <= M[j, j] for i after j; ties violate."""
        rng = np.random.default_rng(0)
        for steps in range(1, 7):
            matrix = np.round(rng.random((steps, steps)), 1)
            violations = sum(matrix[i, j] <= matrix[j, j] for j in range(steps) for i in range(j + 1, steps))
            want = 1 - violations / max(1, steps * (steps - 1) / 2)
            assert average_compatibility(matrix) == pytest.approx(want)

    def test_nan(self):
        assert average_compatibility([[0.1, 0.9], [np.nan, 0.2]]) == 0.0
        with pytest.raises(errors.NonFiniteError, match=r"values\[1\]"):
            average_compatibility([[0.1, 0.9], [0.3, np.nan]])

    @pytest.mark.parametrize("values", [[], [1.0], [[1.0, 2.0]]])
    def test_shape(self, values):
        with pytest.raises(errors.ShapeError, match="expected"):
            average_compatibility(values)


def test_update_gain():
    assert update_gain(0.4, 0.55, 0.6) == pytest.approx(0.75)
    assert update_gain(0.4, 0.3, 0.6) == pytest.approx(-0.5)
    assert np.isnan(update_gain(0.6, 0.7, 0.6))
    assert np.isnan(update_gain(0.6, 0.5, 0.4))
