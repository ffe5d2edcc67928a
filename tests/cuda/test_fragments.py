"""The shim's fragment maps against CuTe, the second opinion on the PTX manual. Needs a C++ compiler, the CUDA toolkit's
headers (asked of nvcc), and CuTe's (`make build` installs them; or FCT_CUTE_INCLUDE)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def cute_include() -> Path:
    named = os.environ.get("FCT_CUTE_INCLUDE")
    place = Path(named or Path(sysconfig.get_paths()["purelib"]) / "cutlass_library/source/include")
    if not (place / "cute/tensor.hpp").is_file():
        pytest.skip("CuTe's headers are not installed (pip install --no-deps nvidia-cutlass)")
    return place


def cuda_include() -> Path:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed, and CuTe's headers include the CUDA toolkit's")
    words = [nvcc, "--dryrun", "-E", "-x", "cu", os.devnull]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stderr
    found = re.search(r'^#\$ INCLUDES="-I([^"]+)"', said, re.MULTILINE)
    assert found is not None, said
    assert (Path(found[1]) / "cuda_runtime.h").is_file()
    return Path(found[1])


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("checks", ["fragments agree", "wgmma agrees"])
def test_the_shim_reads_fragments_as_cute_does(checks: str, tmp_path: Path) -> None:
    cute, cuda = cute_include(), cuda_include()
    program = tmp_path / "fragments"
    sources = [ROOT / f"tests/csrc/cuda/cute_{checks.split()[0]}.cpp", *sorted((ROOT / "csrc/cuda/shim").glob("*.cpp"))]
    includes = [f"-I{place}" for place in (ROOT / "csrc", ROOT / "tests/csrc")]
    foreign = [word for place in (cute, cuda, cuda / "cccl") for word in ("-isystem", str(place))]
    subprocess.run(["g++", "-std=c++20", "-O1", "-w", *includes, *foreign, *sources, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    # Before that, CuTe may say that it cannot know an address of shared memory.
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, [f"{checks} with CuTe"]), done.stderr
