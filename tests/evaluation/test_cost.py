"""cost_table: FLOP and bytes by hand for a known h, and the figures of the paper's h."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fct_fast import TransformSpec, errors
from fct_fast.evaluation import cost_table
from fct_fast.spec import Branch, Layer


def layer(out_dim, in_dim):
    return Layer(np.zeros((out_dim, in_dim), np.float32), np.zeros(out_dim, np.float32), relu=False)


@pytest.fixture
def spec():
    """old 3 and side 2 to 4 and 5 values, together 9, to 7."""
    branches = (Branch("old", (layer(4, 3),)), Branch("side", (layer(5, 2),)))
    return TransformSpec(3, 2, 7, branches, (layer(7, 9),))


def test_by_hand(spec):
    got = cost_table(spec, rows=10, side_bytes=2, re_embed_flops=1700, re_embed_bytes=70, bytes_per_value=2)
    assert got.upgrade.flops == 2 * (4 * 3 + 5 * 2 + 7 * 9) == 170
    assert (got.upgrade.bytes_read, got.upgrade.bytes_written) == (3 * 2 + 2, 7 * 2)
    assert (got.re_embed.flops, got.re_embed.bytes_read, got.re_embed.bytes_written) == (1700, 70, 14)
    assert (got.flops_ratio, got.bytes_read_ratio) == (10.0, 70 / 8)
    assert (got.stored_before, got.stored_after, got.side_total) == (8, 16, 20)
    assert (got.upgrade_total.flops, got.upgrade_total.bytes_read, got.re_embed_total.bytes_written) == (1700, 80, 140)


def test_the_papers_h(make_transform):
    """128 / 128 / 128 with 2048 inner: 5,701,632 multiply-adds, and twice the bytes of an old gallery."""
    h = make_transform(old_dim=128, new_dim=128, side_dim=128, inner_dim=2048).to_spec()
    got = cost_table(h, rows=10**9, side_bytes=512)
    assert got.upgrade.flops == 2 * 5_701_632
    assert got.upgrade_total.flops == 11_403_264 * 10**9
    assert got.stored_before == 1024


def test_what_is_not_known_stays_none(spec):
    got = cost_table(spec, rows=10, side_bytes=8)
    assert (got.re_embed.flops, got.re_embed_total.bytes_read, got.flops_ratio, got.bytes_read_ratio) == (None,) * 4
    assert got.re_embed_total.bytes_written == 280


def test_json(spec):
    table = cost_table(spec, rows=10, side_bytes=8, re_embed_flops=340)
    got = json.loads(json.dumps(table.to_json()))
    assert got["upgrade_total"]["flops"] == 1700
    assert got["flops_ratio"] == 2.0
    assert got["re_embed"] == {"flops": 340, "bytes_read": None, "bytes_written": 28}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": -1}, "rows"),
        ({"rows": 1.5}, "rows"),
        ({"re_embed_flops": -1}, "re_embed_flops"),
        ({"bytes_per_value": 0}, "bytes_per_value"),
        ({"side_bytes": 0}, "reads 2 values of side-information"),
    ],
)
def test_bad_input(spec, options, words):
    with pytest.raises(errors.ConfigError, match=words):
        cost_table(spec, **({"rows": 1, "side_bytes": 1} | options))


def test_side_bytes_that_nothing_reads():
    spec = TransformSpec(3, 0, 4, (Branch("old", ()),), (layer(4, 3),))
    assert cost_table(spec, rows=1, side_bytes=0).side_total == 0
    with pytest.raises(errors.ConfigError, match="no side-information"):
        cost_table(spec, rows=1, side_bytes=4)
