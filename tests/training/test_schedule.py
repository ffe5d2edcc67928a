"""The schedule warms up linearly, falls as a cosine to zero, and is the same through torch's scheduler."""

import itertools
import math

import pytest
import torch

from fct_fast.errors import ConfigError
from fct_fast.training.schedule import warmup_cosine, warmup_cosine_scheduler


def test_warms_up_then_falls():
    factors = [warmup_cosine(i, steps=100, warmup_steps=10) for i in range(101)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == 0.0
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert all(0 < f <= 1 for f in factors[:100])


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (7, 0), (7, 7), (50, 3)])
def test_torch_scheduler_sets_the_same_rates(steps, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = warmup_cosine_scheduler(optimizer, steps=steps, warmup_steps=warmup)
    for i in range(steps):
        assert math.isclose(optimizer.param_groups[0]["lr"], 0.3 * warmup_cosine(i, steps=steps, warmup_steps=warmup))
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("steps", "warmup"), [(0, 0), (-1, 0), (5, 6), (5, -1)])
def test_refuses_runs_that_make_no_sense(steps, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    with pytest.raises(ConfigError, match="warmup_steps"):
        warmup_cosine_scheduler(optimizer, steps=steps, warmup_steps=warmup)
