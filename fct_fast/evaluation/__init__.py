"""Judging a space: exact retrieval metrics with labels (`evaluate`, `top_metrics`) and agreement with the new space
without (`overlap`); what an upgrade changes (`flips`, `compatibility_matrix`, `threshold_shift`), how sure that is
(`mean_interval` and its kin), what it costs (`cost_table`), and what re-embedding a share of the gallery gives
(`backfill_curve`), in an order of `fct_fast.evaluation.order`."""

from fct_fast.evaluation.compatibility import (
    CompatibilityMatrix,
    average_compatibility,
    compatibility_matrix,
    update_gain,
)
from fct_fast.evaluation.cost import Cost, CostTable, cost_table
from fct_fast.evaluation.curve import BackfillCurve, backfill_curve
from fct_fast.evaluation.flips import Flips, flips
from fct_fast.evaluation.intervals import Interval, mean_interval, paired_interval, seeds_interval
from fct_fast.evaluation.overlap import Overlap, overlap
from fct_fast.evaluation.rank import Evaluation, evaluate, rank_scores
from fct_fast.evaluation.threshold import OperatingPoint, ThresholdShift, threshold_shift
from fct_fast.evaluation.top import TopMetrics, top_metrics, top_metrics_of_scores

__all__ = [
    "BackfillCurve",
    "CompatibilityMatrix",
    "Cost",
    "CostTable",
    "Evaluation",
    "Flips",
    "Interval",
    "OperatingPoint",
    "Overlap",
    "ThresholdShift",
    "TopMetrics",
    "average_compatibility",
    "backfill_curve",
    "compatibility_matrix",
    "cost_table",
    "evaluate",
    "flips",
    "mean_interval",
    "overlap",
    "paired_interval",
    "rank_scores",
    "seeds_interval",
    "threshold_shift",
    "top_metrics",
    "top_metrics_of_scores",
    "update_gain",
]
