"""Training: `fit` from stored arrays; the old, side-information and new models live in their own modules."""

from fct_fast.training.config import FitConfig
from fct_fast.training.fit import FitResult, fit

__all__ = ["FitConfig", "FitResult", "fit"]
