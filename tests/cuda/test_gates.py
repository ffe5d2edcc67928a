"""The built CUDA library, looked at without a GPU: what ptxas said of each kernel, the instructions in it, what it links.

Needs a build by nvcc (`make test` makes one where nvcc is present); the instructions also cuobjdump and nvdisasm, which
pip has (dev extras). FCT_CUDA_BUILD names another build folder.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARCHES = ("sm_80", "sm_90a")

# Kernels whose block has so many threads may use so many registers.
REGISTERS_OF_A_BLOCK = 65536
# Instances of each stem: element types, tiles and outputs.
INSTANCES = {
    "upgrade_load": 3,
    "upgrade_layer_mma": 16,
    "upgrade_layer_ffma": 3,
    "upgrade_layer_imma": 8,
    "upgrade_layer_ordered": 6,
    "upgrade_finish": 1,
    "upgrade_fused": 4,
}


def entries(ptxas: str) -> list[tuple[str, str, str]]:
    """(kernel, arch, what ptxas reports) for every kernel that was compiled."""
    parts = re.split(r"ptxas info +: Compiling entry function '(\S+)' for '(\w+)'", ptxas)[1:]
    return list(zip(parts[::3], parts[1::3], parts[2::3], strict=True))


def registers_of(report: str) -> int:
    found = re.search(r"Used (\d+) registers", report)
    assert found is not None, report
    return int(found[1])


def check_registers(ptxas: str, kernels: dict[str, tuple[int, int]], kernel_of: Callable[[str], str | None]) -> None:
    """Each kernel has so many instances on every architecture, and none needs more registers than allowed."""
    found = [(kernel_of(kernel), arch, registers_of(report)) for kernel, arch, report in entries(ptxas)]
    for name, (instances, limit) in kernels.items():
        for arch in ARCHES:
            registers = [used for kernel, a, used in found if kernel == name and a == arch]
            assert len(registers) == instances, (name, arch)
            assert max(registers) <= limit, (name, arch)


def threads_of(kernel: str) -> int:
    """By the tile in the mangled name; 256 elsewhere."""
    tile = re.search(r"TileILi(\d+)ELi(\d+)ELi(\d+)ELi(\d+)ELi(\d+)ELi(\d+)E", kernel)
    if tile is None:
        return 256
    return 32 * int(tile[3]) * int(tile[4]) * int(tile[5])


def test_no_kernel_spills_or_uses_local_memory(ptxas: str) -> None:
    found = entries(ptxas)
    for kernel, arch, report in found:
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
        assert frame is not None, kernel
        assert frame.groups() == ("0", "0", "0"), (kernel, arch)
        # Two blocks of the shallow fused kernel share a multiprocessor.
        blocks = 2 if re.search(r"upgrade_fused.*Li8E", kernel) else 1
        assert registers_of(report) * threads_of(kernel) * blocks <= REGISTERS_OF_A_BLOCK, (kernel, arch)
    for arch in ARCHES:
        for stem, count in INSTANCES.items():
            assert sum(stem in kernel and arch == a for kernel, a, _ in found) == count, (arch, stem)


def test_ptxas_says_nothing_of_serialised_or_ignored_instructions(ptxas: str) -> None:
    assert not re.findall(r"\(C75\d\d\)|warning|error", ptxas)


def test_tensor_core_layers_are_what_they_should_be(sass: dict[tuple[str, str], list[str]]) -> None:
    seen = 0
    for (arch, kernel), instructions in sass.items():
        if "upgrade_layer_mma" not in kernel:
            continue
        seen += 1
        names = Counter(instruction.split()[0] for instruction in instructions)
        want = "HMMA.16816.F32.BF16" if "mmaINS0_6Bfloat" in kernel else "HMMA.16816.F32"
        hmma = {name: count for name, count in names.items() if name.startswith(("HMMA", "IMMA"))}
        assert set(hmma) == {want}, (arch, kernel, hmma)
        # One step of depth is unrolled: a warp's tile of 64 x 64 is 4 x 8 products for each of 4 steps of 16.
        least = 128 if threads_of(kernel) == 256 or "TileILi128ELi128" in kernel else 8
        assert hmma[want] >= least, (arch, kernel, hmma)
        assert any(name.startswith("LDSM.16.M88.4") for name in names), (arch, kernel)
        assert any(re.match(r"LDGSTS\.E\.BYPASS.*128", name) for name in names), (arch, kernel)
        assert any(name == "STG.E.128" for name in names), (arch, kernel)
    assert seen == 2 * INSTANCES["upgrade_layer_mma"]


def test_the_fused_kernel_is_what_it_should_be(sass: dict[tuple[str, str], list[str]]) -> None:
    seen = 0
    for (arch, kernel), instructions in sass.items():
        if "upgrade_fused" not in kernel:
            continue
        seen += 1
        names = Counter(instruction.split()[0] for instruction in instructions)
        want = "HMMA.16816.F32.BF16" if "INS0_6Bfloat" in kernel else "HMMA.16816.F32"
        hmma = {name: count for name, count in names.items() if name.startswith(("HMMA", "IMMA"))}
        assert set(hmma) == {want}, (arch, kernel, hmma)
        # Every depth is unrolled: four products a step, 1 + 2 + ... + 8 or 16 steps.
        deepest = 8 if "Li8E" in kernel else 16
        assert hmma[want] >= 4 * deepest * (deepest + 1) // 2, (arch, kernel, hmma)
        assert any(name.startswith("LDSM.16.M88.4") for name in names), (arch, kernel)
        assert any(re.match(r"LDGSTS\.E\.BYPASS.*128", name) for name in names), (arch, kernel)
        assert names["LDG.E.128"] >= 8, (arch, kernel)  # aligned float32 inputs, eight at once
        assert names["CCTL.E.PF2"] > 0, (arch, kernel)
    assert seen == 2 * INSTANCES["upgrade_fused"]


def test_split_depths_are_fenced_and_counted_and_no_float_is_added_by_atomics(
    sass: dict[tuple[str, str], list[str]],
) -> None:
    seen = 0
    for (arch, kernel), instructions in sass.items():
        names = {instruction.split()[0] for instruction in instructions}
        assert not [name for name in names if re.match(r"(RED|ATOM)", name) and re.search(r"\.B?F\d\d", name)], kernel
        if not re.search(r"upgrade_layer_(mma|ffma).*TileILi(16|64)E", kernel):
            continue
        seen += 1
        assert any(name.startswith("ATOMG") for name in names), (arch, kernel)
        assert any(name.startswith("MEMBAR") and name.endswith("GPU") for name in names), (arch, kernel)
        assert "CCTL.IVALL" in names, (arch, kernel)  # parts of other blocks are not read from this one's stale L1
    assert seen == 2 * (8 + 2)  # the narrow and the small tile: two elements, two outputs; and float32


def test_float32_layers_use_no_tensor_cores(sass: dict[tuple[str, str], list[str]]) -> None:
    seen = 0
    for (arch, kernel), instructions in sass.items():
        if "upgrade_layer_ffma" not in kernel:
            continue
        seen += 1
        names = Counter(instruction.split()[0] for instruction in instructions)
        assert not [name for name in names if name.startswith(("HMMA", "HGMMA"))], (arch, kernel)
        assert names["FFMA"] >= 8, (arch, kernel)
        assert names["LDS.128"] >= 3, (arch, kernel)
    assert seen == 2 * INSTANCES["upgrade_layer_ffma"]


def test_layers_on_bytes_are_exact_and_round_each_operation(sass: dict[tuple[str, str], list[str]]) -> None:
    seen = 0
    for (arch, kernel), instructions in sass.items():
        if "upgrade_layer_imma" not in kernel:
            continue
        seen += 1
        names = Counter(instruction.split()[0] for instruction in instructions)
        products = {name: count for name, count in names.items() if re.match("[HIQ]G?MMA", name)}
        assert set(products) == {"IMMA.16832.U8.S8"}, (arch, kernel, products)
        least = 128 if threads_of(kernel) == 256 or "TileILi128ELi128" in kernel else 8
        assert products["IMMA.16832.U8.S8"] >= least, (arch, kernel, products)
        assert any(name.startswith("LDSM.16.M88.4") for name in names), (arch, kernel)
        assert any(re.match(r"LDGSTS\.E\.BYPASS.*128", name) for name in names), (arch, kernel)
        assert any(name == "STG.E.128" for name in names), (arch, kernel)
        assert not [name for name in names if name.startswith("FFMA")], (arch, kernel, names)
        assert names["FMUL"] >= 8, (arch, kernel)
        assert names["FADD"] >= 8, (arch, kernel)
    assert seen == 2 * INSTANCES["upgrade_layer_imma"]


def test_ordered_layers_fuse_nothing(sass: dict[tuple[str, str], list[str]]) -> None:
    seen = 0
    for (arch, kernel), instructions in sass.items():
        if "upgrade_layer_ordered" not in kernel:
            continue
        seen += 1
        names = Counter(instruction.split()[0] for instruction in instructions)
        assert not [name for name in names if re.match("FFMA|[HI]G?MMA|FMUL.FTZ|FADD.FTZ", name)], (arch, kernel, names)
        assert names["FMUL"] >= 16, (arch, kernel)  # both kinds of chunk
        assert names["FADD"] >= 16, (arch, kernel)
        assert names["LDS.128"] >= 6, (arch, kernel)
    assert seen == 2 * INSTANCES["upgrade_layer_ordered"]


def test_no_functions_or_local_memory_in_layers(sass: dict[tuple[str, str], list[str]]) -> None:
    for (arch, kernel), instructions in sass.items():
        names = {instruction.split()[0].split(".")[0] for instruction in instructions}
        assert not names & {"LDL", "STL"}, (arch, kernel)
        if "upgrade_layer" in kernel:
            assert "RET" not in names, (arch, kernel)  # a CALL alone is how ptxas leaves some loops


def test_the_library_needs_nothing_of_cuda(library: Path) -> None:
    told = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(\S+?)\.so", told))
    assert needed <= {"libstdc++", "libgcc_s", "libc", "libm", "ld-linux-x86-64", "libpthread", "libdl", "librt"}, (
        needed
    )


def test_the_library_shows_its_c_abi_alone(library: Path) -> None:
    told = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    shown = {line.split()[-1] for line in told.splitlines()}
    header = "\n".join(path.read_text() for path in ROOT.glob("csrc/cuda/**/abi.h"))
    declared = set(re.findall(r"\b(fct_cuda_\w+)\(", header))
    assert shown == declared


def test_the_library_holds_code_for_both_kinds_and_ptx_for_the_rest(library: Path) -> None:
    content = library.read_bytes()
    assert b"sm_90a" in content
    assert b"sm_80" in content or b"compute_80" in content
