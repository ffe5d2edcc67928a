"""The stage `build`: the compiled module and the CUDA library, put where the package looks for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.run import ROOT


def build() -> list[dict[str, Any]]:
    """Compiles into build/gpu and copies to fct_fast/kernels; raises where no GPU is usable afterwards."""
    import pybind11

    folder, kernels = ROOT / "build/gpu", ROOT / "fct_fast/kernels"
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-DFCT_PYTHON=ON", "-DFCT_CUDA=ON"]
    configure += ["-DCMAKE_BUILD_TYPE=Release", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}"] + (["-G", "Ninja"] if shutil.which("ninja") else [])
    subprocess.run(configure, check=True)
    subprocess.run(["cmake", "--build", str(folder), "-j", str(os.cpu_count() or 1)], check=True)
    for built in (*folder.glob("_native*.so"), folder / "csrc/cuda/libfct_cuda.so"):
        shutil.copy(built, kernels / built.name)
    told = subprocess.run(
        [sys.executable, "-c", "from fct_fast.kernels import native; print(native().__file__, native().cuda_state())"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    print(told)
    module, _, state = told.partition(" ")
    if Path(module).parent != kernels:
        raise SystemExit(f"the package is imported from {module}, not from this repository; uninstall fct-fast here")
    if "'devices': []" in state:
        raise SystemExit("the library was built, but no GPU is usable")
    return []
