"""Galleries: where they live (`stores`) and how they are upgraded (`job`)."""

from fct_fast.gallery.job.cutover import read_live
from fct_fast.gallery.job.job import Job, Status, backfill, plan_backfill
from fct_fast.gallery.job.plan import Plan
from fct_fast.gallery.job.run import Progress, Report
from fct_fast.gallery.job.verify import Check, Verification
from fct_fast.gallery.stores.npy import write_space

__all__ = [
    "Check",
    "Job",
    "Plan",
    "Progress",
    "Report",
    "Status",
    "Verification",
    "backfill",
    "plan_backfill",
    "read_live",
    "write_space",
]
