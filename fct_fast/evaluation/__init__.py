"""Judging a space: exact retrieval metrics with labels (`evaluate`, `top_metrics`) and agreement with the new space
without (`overlap`); what an upgrade changes (`flips`, `compatibility_matrix`, `threshold_shift`), how sure that is
(`mean_interval` and its kin), and what it costs (`cost_table`)."""

from fct_fast.evaluation.compatibility import (
    CompatibilityMatrix,
    average_compatibility,
    compatibility_matrix,
    update_gain,
)
from fct_fast.evaluation.cost import Cost, CostTable, cost_table
from fct_fast.evaluation.flips import Flips, flips
from fct_fast.evaluation.intervals import Interval, mean_interval, paired_interval, seeds_interval
from fct_fast.evaluation.overlap import Overlap, overlap
from fct_fast.evaluation.rank import Evaluation, evaluate, rank_scores
from fct_fast.evaluation.threshold import OperatingPoint, ThresholdShift, threshold_shift
from fct_fast.evaluation.top import TopMetrics, top_metrics, top_metrics_of_scores

__all__ = [
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
