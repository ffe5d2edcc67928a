"""The study of an upgrade: is it worth it, by which map, and how many rows are to be re-embedded all the same."""

from fct_fast.study.config import StudyConfig
from fct_fast.study.result import Study
from fct_fast.study.sample import Sample, sample_rows
from fct_fast.study.study import run_study

__all__ = ["Sample", "Study", "StudyConfig", "run_study", "sample_rows"]
