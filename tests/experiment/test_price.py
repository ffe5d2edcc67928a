"""FLOP of a network are counted as one does by hand, and the price list is that of the recipe's h."""

from __future__ import annotations

from torch import nn

from fct_fast.experiment import load_recipe
from fct_fast.experiment.price import network_flops, price_list
from fct_fast.models import StrideCNN


def test_flops_of_a_network() -> None:
    pair = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    assert network_flops(pair, 8) == 2 * (3 * 4 * 4 * 9 + 3 * 4 * 4 * 5)
    c = 24  # maps of 14, 7, 4 and 2 pixels
    by_hand = 14 * 14 * c * 9 + 7 * 7 * 2 * c * c * 9 + 4 * 4 * 4 * c * 2 * c * 9 + 2 * 2 * 4 * c * 4 * c * 9
    assert network_flops(StrideCNN(c, 64, 28), 28) == 2 * (by_hand + 4 * c * 2 * 2 * 64)


def test_the_price_list() -> None:
    price = price_list(load_recipe("glyphs"))
    branch = 64 * 128 + 128 * 128
    assert price["upgrade"]["flops"] == 2 * (2 * branch + 256 * 512 + 512 * 512 + 512 * 64)
    assert (price["upgrade"]["bytes_read"], price["re_embed"]["bytes_read"]) == (512, 48 * 48)
    assert price["side_bytes"] == 256
