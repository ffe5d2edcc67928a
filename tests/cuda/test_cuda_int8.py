"""int8 behind `Upgrader(device="cuda")`: what the CUDA library is given, what it refuses, and, where there is a GPU, the
bits of the definition. The kernels themselves: tests/csrc/cuda/test_upgrade_int8_*.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fct_fast import Upgrader
from fct_fast.bundle import Bundle
from fct_fast.errors import ConfigError, DeviceError, ShapeError
from fct_fast.kernels import native
from fct_fast.kernels.cuda import SWITCH, CudaEngine
from fct_fast.kernels.int8 import Int8Transform, activation_maxima, quantized
from fct_fast.kernels.packing import int8_fields
from fct_fast.spec import TransformSpec

LIBRARY = Path(native().__file__).with_name("libfct_cuda.so")
STATE = native().cuda_state()


@pytest.fixture
def spec(make_transform: Callable[..., Any]) -> TransformSpec:
    spec: TransformSpec = make_transform(17, 33, 5, 67, uncertainty=True).to_spec()
    return spec


@pytest.fixture
def inputs(rows: Callable[..., Any]) -> tuple[Any, Any]:
    return rows(300, 17), rows(300, 5, 1)


@pytest.fixture
def transform(spec: TransformSpec, inputs: tuple[Any, Any]) -> Int8Transform:
    return quantized(spec, activation_maxima(spec, *inputs))


class OnTheCpu:
    """Stands in for the CUDA module's class: the same call, computed by the CPU's int8 kernel."""

    def __init__(self, *fields: Any) -> None:
        *numbers, precision, branches, trunk, self.device = fields
        self.packed = native().pack(*numbers, precision, branches, trunk, lambda size: np.empty(size, np.uint8))

    def run(self, old: Any, side: Any, out: Any, s: Any, status: Any, *_: Any) -> tuple[int, int]:
        native().upgrade(self.packed, "scalar", old, side, out, s, status, 1)
        return len(out), len(out)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    state = {"devices": [{"device": 1, "name": "G", "compute": 90, "multiprocessors": 1}], "problem": ""}
    monkeypatch.setattr(native(), "cuda_state", lambda: state)
    monkeypatch.setattr(native(), "CudaUpgrade", OnTheCpu)


@pytest.mark.usefixtures("stand_in")
def test_an_upgrader_on_a_gpu_takes_its_scales_as_on_the_cpu(spec: TransformSpec, inputs: tuple[Any, Any]) -> None:
    few = (inputs[0][:20], inputs[1][:20])
    bundle = Bundle.of(spec, scales={"activation_max": activation_maxima(spec, *few), "rows": 20})
    for source, calibration in ((spec, few), (bundle, None)):
        up = Upgrader(source, device="cuda:1", precision="int8", calibration=calibration)
        assert (up.device, up.precision) == ("cuda:1", "int8")
        other = Upgrader(source, precision="int8", calibration=calibration)
        assert up.digest == other.digest
        new, s = up(*inputs, return_uncertainty=True)
        want, want_s = other(*inputs, return_uncertainty=True)
        assert new.tobytes() == want.tobytes()
        assert s.tobytes() == want_s.tobytes()
    with pytest.raises(ConfigError, match="needs activation scales"):
        Upgrader(spec, device="cuda:1", precision="int8")


@pytest.mark.skipif(not LIBRARY.is_file(), reason="built without nvcc")
def test_a_quantised_transform_is_checked_before_the_device(transform: Int8Transform) -> None:
    *numbers, branches, trunk = int8_fields(transform)

    def refused(trunk: list[Any], sentence: str) -> None:
        with pytest.raises(ShapeError, match=sentence):
            native().CudaUpgrade(*numbers, "int8", branches, trunk, 0)

    def written(layer: tuple[Any, ...], narrow: bool) -> tuple[Any, ...]:
        return (*layer[:4], narrow, layer[5])

    refused(trunk[1:], "a trunk layer reads 67 values but is given 132")
    refused([written(trunk[0], False), *trunk[1:]], "a trunk layer reads bytes but is given float32")
    refused([*trunk[:-1], written(trunk[-1], True)], "the last layer writes bytes")


@pytest.mark.skipif(not LIBRARY.is_file(), reason="built without nvcc")
@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a driver")
def test_a_whole_one_is_taken_as_far_as_the_driver(spec: TransformSpec, transform: Int8Transform) -> None:
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        CudaEngine(spec, "int8", 0, transform)


@pytest.mark.skipif(not STATE["devices"], reason="needs a GPU")
def test_a_gpu_gives_the_bits_of_the_definition(
    spec: TransformSpec, transform: Int8Transform, inputs: tuple[Any, Any]
) -> None:
    engine = CudaEngine(spec, "int8", STATE["devices"][0]["device"], transform)
    for rows in (1, 127, 128, 129, 300):
        old, side = inputs[0][:rows], inputs[1][:rows]
        out, s = np.full((rows, 33), np.nan, np.float32), np.full(rows, np.nan, np.float32)
        status = np.full(rows, 0xEE, np.uint8)
        engine.run(old, side, out, s, status)
        want = transform.apply(old, side)
        assert out.tobytes() == want[:, :33].tobytes()
        assert s.tobytes() == want[:, 33].tobytes()
        assert not status.any()
