"""What the GPU tests share. Nothing here needs more than numpy, torch and the built package."""

from __future__ import annotations

import os
import secrets

import numpy as np
import pytest

from fct_fast.kernels import native
from fct_fast.spec import Branch, Layer, TransformSpec

STATE = native().cuda_state()
REASON = STATE["problem"] or "no usable CUDA device"
gpu_tests = [pytest.mark.gpu, pytest.mark.skipif(not STATE["devices"], reason=f"no usable GPU: {REASON}")]

# Fresh data in each run; the seed of a failing run is in its test's output.
SEED = int(os.environ.get("FCT_FAST_TEST_SEED") or secrets.randbits(31))

# Norm-wise relative errors that README promises.
BOUNDS = {"fp32": 2e-6, "fp16": 1.5e-3, "bf16": 1e-2}


def generator(offset: int = 0) -> np.random.Generator:
    print(f"FCT_FAST_TEST_SEED={SEED}")
    return np.random.default_rng([SEED, offset])


def spec_of(
    old_dim: int,
    side_dim: int,
    inner_dim: int,
    new_dim: int,
    offset: int = 0,
    uncertainty: bool = False,
    normalize: bool = True,
) -> TransformSpec:
    """The paper's h with random weights that keep the scale of a row."""
    draw = generator(offset)

    def layer(inputs: int, outputs: int, relu: bool) -> Layer:
        weight = draw.standard_normal((outputs, inputs)) * np.sqrt(2 / inputs)
        return Layer(weight.astype(np.float32), (0.1 * draw.standard_normal(outputs)).astype(np.float32), relu)

    def branch(name: str, dim: int) -> Branch:
        return Branch(name, (layer(dim, 2 * dim, True), layer(2 * dim, 2 * new_dim, True)))

    branches = (branch("old", old_dim),) + ((branch("side", side_dim),) if side_dim else ())
    trunk = (
        layer(2 * new_dim * len(branches), inner_dim, True),
        layer(inner_dim, inner_dim, True),
        layer(inner_dim, new_dim + uncertainty, False),
    )
    return TransformSpec(
        old_dim=old_dim,
        side_dim=side_dim,
        new_dim=new_dim,
        branches=branches,
        trunk=trunk,
        normalize=normalize,
        uncertainty=uncertainty,
    )


def rows_of(n: int, dim: int, offset: int) -> np.ndarray:
    return generator(offset).standard_normal((n, dim), dtype=np.float32)


def inputs_of(spec: TransformSpec, n: int, offset: int = 1) -> tuple[np.ndarray, np.ndarray | None]:
    return rows_of(n, spec.old_dim, offset), rows_of(n, spec.side_dim, offset + 1) if spec.side_dim else None


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    got = np.asarray(got, np.float64)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))
