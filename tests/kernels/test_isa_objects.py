"""The compiled ISA levels: nothing of a wide level leaks out, and no sum is spilled inside a tile's loop.

Needs the compiler that the package is built with; compiles the kernel files as CMakeLists.txt does.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FLAGS = {
    "scalar": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"],
    "avx512bf16": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16"],
    "int8_scalar": [],
    "int8_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "int8_avx512vnni": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"],
    "amxbf16": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
    "int8_amx": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mamx-tile", "-mamx-int8"],
}
# A multiply-add of the inner loop. The int8 tile of AVX2 multiplies twice for each sum: even bytes, odd bytes.
PRODUCT = re.compile("vfmadd|vdpbf16|vpmaddwd|vpdpbusd")

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not shutil.which("g++") or not shutil.which("objdump"),
    reason="looks at x86-64 objects with g++ and objdump",
)


def compile_level(level: str, optimize: str, target: Path) -> Path:
    source = ROOT / f"csrc/cpu/kernels_{level}.cpp"
    command = ["g++", "-std=gnu++20", optimize, "-w", "-fPIC", "-ffp-contract=off", *FLAGS[level]]
    subprocess.run([*command, f"-I{ROOT / 'csrc'}", "-c", str(source), "-o", str(target)], check=True)
    return target


def test_flags_are_those_of_the_build() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    for level, flags in FLAGS.items():
        for flag in flags:
            assert flag in cmake, (level, flag)


@pytest.mark.parametrize("optimize", ["-O0", "-O2"])
@pytest.mark.parametrize("level", list(FLAGS))
def test_one_global_symbol_and_no_weak_one(level: str, optimize: str, tmp_path: Path) -> None:
    """A weak inline function of an AVX-512 file could become everybody's copy at link time."""
    compiled = compile_level(level, optimize, tmp_path / "kernels.o")
    listing = subprocess.run(["nm", "-C", str(compiled)], capture_output=True, text=True, check=True).stdout
    outside = [
        line
        for line in listing.splitlines()
        if re.search(r" [A-TV-Zuvw] ", line) and " _GLOBAL_OFFSET_TABLE_" not in line
    ]
    kinds = {line.split()[-2] for line in outside}
    assert len(outside) == 1, outside
    assert kinds <= {"D", "R"}, outside


@pytest.mark.parametrize(
    ("level", "products", "sums", "register"),
    [
        ("avx2", 12, 12, "ymm"),
        ("avx512", 24, 24, "zmm"),
        ("avx512bf16", 24, 24, "zmm"),
        ("int8_avx2", 24, 12, "ymm"),
        ("int8_avx512vnni", 24, 24, "zmm"),
    ],
)
def test_the_largest_tile_keeps_its_sums_in_registers(
    level: str, products: int, sums: int, register: str, tmp_path: Path
) -> None:
    """The inner loop of the full tile is its multiply-adds, loads of panels and rows, and no access to the stack; that
    of the peak is a product for each sum and no memory at all."""
    compiled = compile_level(level, "-O2", tmp_path / "kernels.o")
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(compiled)], capture_output=True, text=True, check=True
    ).stdout
    loops = [(sum(bool(PRODUCT.match(line)) for line in body), body) for body in inner_loops(text)]
    peaks = [body for count, body in loops if count == sums and not any("(%r" in line for line in body)]
    assert len(peaks) == 1, f"no loop of {sums} products in registers"
    tiles = [body for count, body in loops if count == products and body not in peaks]
    assert tiles, f"no loop with {products} products"
    assert "prefetch" in text, "the compiler dropped the prefetches"
    for body in tiles:
        stack = [line for line in body if register in line and re.search(r"\(%r[sb]p", line)]
        assert not stack, stack


@pytest.mark.parametrize(("level", "product"), [("amxbf16", "tdpbf16ps"), ("int8_amx", "tdpbusd")])
def test_the_largest_amx_tile_multiplies_as_often_as_it_loads(level: str, product: str, tmp_path: Path) -> None:
    """Two tiles of rows by two panels: four loads, four products, all of different tiles, and no access to the stack;
    the peak is the products alone."""
    compiled = compile_level(level, "-O2", tmp_path / "kernels.o")
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(compiled)], capture_output=True, text=True, check=True
    ).stdout
    loops = [body for body in inner_loops(text) if sum(line.startswith(product) for line in body) == 4]
    peaks = [body for body in loops if not any("(%r" in line for line in body)]
    assert len(peaks) == 1, f"no loop of four {product} alone"
    tiles = [body for body in loops if body not in peaks]
    assert tiles, f"no loop with four {product} and their loads"
    for body in tiles:
        loaded = [line.split("%")[-1] for line in body if line.startswith("tileloadd")]
        assert sorted(loaded) == ["tmm4", "tmm5", "tmm6", "tmm7"], body
    for body in loops:
        sums = [line.split("%")[-1] for line in body if line.startswith(product)]
        assert sorted(sums) == ["tmm0", "tmm1", "tmm2", "tmm3"], body
        assert not [line for line in body if re.search(r"\(%r[sb]p", line)], body


def inner_loops(disassembly: str) -> list[list[str]]:
    """Bodies of loops that hold no other jump: from the target of a backward jump to the jump."""
    lines = [(int(m[1], 16), m[2]) for m in re.finditer(r"^\s*([0-9a-f]+):\t(.*)$", disassembly, re.MULTILINE)]
    place = {address: i for i, (address, _) in enumerate(lines)}
    loops = []
    for i, (address, text) in enumerate(lines):
        jump = re.match(r"j\w+\s+([0-9a-f]+) ", text)
        if not jump or int(jump[1], 16) >= address:
            continue
        start = place.get(int(jump[1], 16))
        if start is not None and not any(line.startswith(("j", "ret", "call")) for _, line in lines[start:i]):
            loops.append([line for _, line in lines[start:i]])
    return loops
