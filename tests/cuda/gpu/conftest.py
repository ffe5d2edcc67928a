"""Turns the CUDA kernels on for the tests of this folder: they are what verifies them."""

from __future__ import annotations

import pytest

from fct_fast.kernels.cuda import SWITCH


@pytest.fixture(autouse=True)
def on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
