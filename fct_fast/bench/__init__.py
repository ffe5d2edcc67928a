"""How fast this machine upgrades and searches, beside what a user could run instead, in the same process."""

from fct_fast.bench.chain import Chain, folded_chain
from fct_fast.bench.searches import SearchSpeed, measure_search, torch_topk
from fct_fast.bench.turns import Timing, take_turns
from fct_fast.bench.upgrades import (
    UpgradeSpeed,
    compare_upgrade,
    measure_upgrade,
    random_transform,
    usable_precisions,
)

__all__ = [
    "Chain",
    "SearchSpeed",
    "Timing",
    "UpgradeSpeed",
    "compare_upgrade",
    "folded_chain",
    "measure_search",
    "measure_upgrade",
    "random_transform",
    "take_turns",
    "torch_topk",
    "usable_precisions",
]
