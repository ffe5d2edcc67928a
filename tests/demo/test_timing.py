"""The timing of the demo compares like with like: torch's folded chain computes what the kernel computes."""

import numpy as np
import torch

from fct_fast.demo.timing import FoldedTransform, time_upgrade
from fct_fast.transform import ForwardTransform
from fct_fast.upgrader import Upgrader


def test_the_torch_peer_is_the_same_function_and_both_are_timed() -> None:
    spec = ForwardTransform(12, 10, side_dim=7, inner_dim=20).to_spec()
    rng = np.random.default_rng(0)
    old, side = (rng.standard_normal((50, dim)).astype(np.float32) for dim in (12, 7))
    with torch.inference_mode():
        peer = FoldedTransform(spec)(torch.from_numpy(old), torch.from_numpy(side)).numpy()
    np.testing.assert_allclose(peer, spec.apply_float64(old, side), atol=1e-5)
    kernel, in_torch = time_upgrade(Upgrader(spec), old, side, rows=5000, rounds=2)
    assert kernel > 0
    assert in_torch > 0
