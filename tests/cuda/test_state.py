"""The CUDA kernels on a machine that cannot run them: off by default, and each reason is one typed sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import fct_fast
from fct_fast import Upgrader
from fct_fast.errors import ConfigError, DeviceError
from fct_fast.kernels import capabilities, native
from fct_fast.kernels.cuda import SWITCH, cuda_device, cuda_text
from fct_fast.kernels.packing import spec_fields
from fct_fast.spec import Branch, Layer, TransformSpec

LIBRARY = Path(native().__file__).with_name("libfct_cuda.so")
STATE = native().cuda_state()
no_gpu = pytest.mark.skipif(bool(STATE["devices"]), reason="this machine has a usable GPU")


@pytest.fixture
def spec() -> TransformSpec:
    generator = np.random.default_rng(0)

    def layer(inputs: int, outputs: int, relu: bool) -> Layer:
        weight = generator.standard_normal((outputs, inputs)).astype(np.float32)
        return Layer(weight, np.zeros(outputs, np.float32), relu)

    return TransformSpec(
        old_dim=6, side_dim=0, new_dim=4, branches=(Branch("old", (layer(6, 8, True),)),), trunk=(layer(8, 4, False),)
    )


@pytest.fixture(autouse=True)
def off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)


def test_cuda_is_off_unless_the_environment_asks_for_it(spec: TransformSpec) -> None:
    with pytest.raises(DeviceError, match=f"no CUDA kernel of this version has run on a GPU yet.*{SWITCH}=1"):
        Upgrader(spec, device="cuda")
    assert Upgrader(spec, device="auto").device == "cpu"


@no_gpu
def test_without_a_usable_gpu_the_sentence_says_why(spec: TransformSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    assert STATE["problem"]
    with pytest.raises(DeviceError, match="device 'cuda' cannot be used: ") as refused:
        Upgrader(spec, device="cuda")
    assert STATE["problem"] in str(refused.value)
    assert Upgrader(spec, device="cpu")(np.ones((2, 6), np.float32)).shape == (2, 4)  # the CPU still works


@no_gpu
@pytest.mark.skipif(not LIBRARY.is_file(), reason="built without nvcc")
@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a driver")
def test_without_a_driver_the_library_loads_and_says_so(spec: TransformSpec) -> None:
    assert STATE["problem"] == "no NVIDIA driver is installed on this machine"
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        native().CudaUpgrade(6, 0, 4, True, False, "fp16", *_layers(spec), 0)


@pytest.mark.skipif(not LIBRARY.is_file(), reason="built without nvcc")
def test_shapes_and_precisions_are_checked_before_the_device(spec: TransformSpec) -> None:
    with pytest.raises(fct_fast.errors.ShapeError, match="the last layer gives 4 values, expected 5"):
        native().CudaUpgrade(6, 0, 5, True, False, "fp16", *_layers(spec), 0)
    with pytest.raises(fct_fast.errors.DtypeError, match="no precision 'int4'"):
        native().CudaUpgrade(6, 0, 4, True, False, "int4", *_layers(spec), 0)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda0", "CUDA", ""])
def test_other_names_are_no_devices(spec: TransformSpec, name: str) -> None:
    with pytest.raises(ConfigError, match="use 'auto', 'cpu', 'cuda' or 'cuda:N'"):
        Upgrader(spec, device=name)


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    state = {"devices": [{"device": 0, "name": "G", "compute": 90, "multiprocessors": 1}], "problem": ""}
    monkeypatch.setattr(native(), "cuda_state", lambda: state)
    assert cuda_device("cuda") == cuda_device("cuda:0") == 0
    with pytest.raises(DeviceError, match="'cuda:3' cannot be used: this process sees 1 usable"):
        cuda_device("cuda:3")
    assert cuda_text() == "usable: G (device 0, compute capability 9.0); turned on, though none has run on a GPU yet"
    monkeypatch.delenv(SWITCH)
    assert cuda_text().endswith(
        "so they are off; FCT_FAST_CUDA_UNVERIFIED=1 turns them on; usable: G (device 0, compute capability 9.0)"
    )


@no_gpu
def test_the_capabilities_name_the_state() -> None:
    assert capabilities()["cuda"] == cuda_text()
    assert STATE["problem"] in cuda_text()
    assert "off" in cuda_text()


def test_a_build_without_the_library_works_and_says_so(tmp_path: Path) -> None:
    """The package copied without its CUDA library, in a process of its own."""
    package = tmp_path / "fct_fast"
    shutil.copytree(Path(fct_fast.__file__).parent, package)
    binary = next(Path(native().__file__).parent.glob("_native*.so"))
    shutil.copy(binary, package / "kernels" / binary.name)
    (package / "kernels" / "libfct_cuda.so").unlink(missing_ok=True)
    code = "from fct_fast.kernels import native, capabilities; print(native().__file__); print(capabilities()['cuda'])"
    # -S: an editable install would put the checkout first.
    path = f"{tmp_path}:{sysconfig.get_paths()['purelib']}"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    place, text = done.stdout.splitlines()
    assert place.startswith(str(tmp_path))
    assert text.endswith("not usable here: this build has no CUDA library, since nvcc was not found when it was built")


def test_torch_is_not_imported_by_the_state() -> None:
    code = "import sys; from fct_fast.kernels import capabilities; capabilities(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def _layers(spec: TransformSpec) -> tuple[list[object], list[object]]:
    *_, branches, trunk = spec_fields(spec)
    return branches, trunk
