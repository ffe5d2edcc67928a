"""The CUDA library as it was built, taken apart once for all that look into it: test_gates.py, test_topk_gates.py."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build_folder() -> Path | None:
    named = os.environ.get("FCT_CUDA_BUILD")
    places = [Path(named)] if named else sorted(ROOT.glob("build/*"))
    built = [place for place in places if (place / "csrc/cuda/libfct_cuda.so").is_file()]
    return max(built, key=lambda place: (place / "csrc/cuda/libfct_cuda.so").stat().st_mtime, default=None)


@pytest.fixture(scope="session")
def build() -> Path:
    folder = build_folder()
    if folder is None:
        pytest.skip("no CUDA library was built here")
    return folder


@pytest.fixture(scope="session")
def library(build: Path) -> Path:
    return build / "csrc/cuda/libfct_cuda.so"


@pytest.fixture(scope="session")
def ptxas(build: Path) -> str:
    logs = sorted(build.glob("csrc/cuda/CMakeFiles/fct_cuda.dir/**/*.ptxas.log"))
    assert logs, "the build kept no ptxas logs"
    return "\n".join(log.read_text() for log in logs)


@pytest.fixture(scope="session")
def sass(library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[str]]:
    """(arch, mangled kernel) -> its instructions with operands."""
    tools = tmp_path_factory.mktemp("tools")
    for name in ("cuobjdump", "nvdisasm"):
        found = shutil.which(name) or next(Path(sysconfig.get_paths()["purelib"]).glob(f"nvidia/*/bin/{name}"), None)
        if found is None:
            pytest.skip(f"{name} is not installed (pip install nvidia-cuda-{name})")
        shutil.copy(found, tools / name)
        (tools / name).chmod(0o755)  # the wheel stores cuobjdump without the bit
    told = subprocess.run(
        [tools / "cuobjdump", "-sass", library],
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    kernels: dict[tuple[str, str], list[str]] = {}
    arch, current = "", ""
    for line in told.splitlines():
        if found_arch := re.match(r"arch = (\w+)", line):
            arch = found_arch[1]
        elif found_name := re.match(r"\s*Function : (\S+)", line):
            current = found_name[1]
            kernels[arch, current] = []
        elif current and (instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][^;]*);", line)):
            kernels[arch, current].append(instruction[1].strip())
    return kernels
