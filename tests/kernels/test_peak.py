"""The register peak that benchmarks hold kernels against. What its loops hold is tested in test_isa_objects.py."""

from __future__ import annotations

import pytest

from fct_fast import errors
from fct_fast.kernels import native


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_level_has_a_rate(precision, threads, level):
    assert 1e6 < native().peak_rate(level, precision, threads, 0.01) < 1e13 * threads


def test_a_level_without_bf16_says_so():
    with pytest.raises(errors.DeviceError, match="no bf16"):
        native().peak_rate("scalar", "bf16", 1, 0.01)
