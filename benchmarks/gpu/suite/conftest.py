"""Turns the CUDA kernels on for the cases of this folder, and skips them where no GPU can run them."""

from __future__ import annotations

import pytest

from fct_fast.kernels import native
from fct_fast.kernels.cuda import SWITCH


def problem() -> str | None:
    """Why the cases cannot run here; None where they can."""
    state = native().cuda_state()
    return None if state["devices"] else f"no usable GPU: {state['problem'] or 'this process sees no CUDA device'}"


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = problem()
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.setenv(SWITCH, "1")
