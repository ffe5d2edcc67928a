"""The kernels for Hopper in the built CUDA library: registers, instructions. See test_gates.py."""

from __future__ import annotations

import re
from collections import Counter

from test_gates import entries, registers_of

STEM = "upgrade_layer_wgmma"
INSTANCES = 12  # three elements, two outputs each, two tiles
ENTRY_REGISTERS = 168  # of 384 threads; setmaxnreg moves them between the roles from there


def columns_of(kernel: str) -> int:
    tile = re.search(r"WgmmaTileILi(\d+)E", kernel)
    assert tile is not None, kernel
    return int(tile[1])


def is_of_bytes(kernel: str) -> bool:
    return f"{STEM}Ih" in kernel


def kernels(sass: dict[tuple[str, str], list[str]]) -> dict[str, Counter[str]]:
    """Mangled kernel -> how often each instruction is in it, for sm_90a."""
    found = {
        kernel: Counter(instruction.split()[0] for instruction in instructions)
        for (arch, kernel), instructions in sass.items()
        if STEM in kernel and arch == "sm_90a"
    }
    assert len(found) == INSTANCES
    return found


def test_registers_are_those_that_the_roles_share(ptxas: str) -> None:
    found = [report for kernel, arch, report in entries(ptxas) if STEM in kernel and arch == "sm_90a"]
    assert len(found) == INSTANCES
    for report in found:
        assert registers_of(report) <= ENTRY_REGISTERS, report


def test_a_step_is_four_products_of_the_whole_tile(sass: dict[tuple[str, str], list[str]]) -> None:
    for kernel, names in kernels(sass).items():
        shape = f"64x{columns_of(kernel)}"
        want = f"IGMMA.{shape}x32.U8.S8" if is_of_bytes(kernel) else f"HGMMA.{shape}x16.F32"
        if "6Bfloat" in kernel:
            want += ".BF16"
        assert {n: c for n, c in names.items() if re.match("[HIQ]G?MMA", n)} == {want: 4}, kernel
        # One wait while the next step is under way, one at the end of a tile: products are never serialised.
        waits = sum(count for name, count in names.items() if name.startswith("WARPGROUP.DEPBAR"))
        assert waits == 2, (kernel, names)


def test_tma_moves_the_tiles_and_roles_share_registers(sass: dict[tuple[str, str], list[str]]) -> None:
    for kernel, names in kernels(sass).items():
        output = 1 if is_of_bytes(kernel) and f"{STEM}Ihh" in kernel else 4 if "fNS0_9Wgmma" in kernel else 2
        assert names["UTMALDG.2D"] == 2, (kernel, names)
        assert names["UTMASTG.2D"] == columns_of(kernel) * output // 128, (kernel, names)
        assert not [name for name in names if name.startswith(("STG", "LDGSTS", "LDSM"))] or output == 2, (
            kernel,
            names,
        )
        assert sum(count for name, count in names.items() if name.startswith("USETMAXREG.DEALLOC")) == 1, kernel
        assert sum(count for name, count in names.items() if name.startswith("USETMAXREG.TRY_ALLOC")) == 1, kernel
        assert names["ACQBULK"] == 1, (kernel, names)  # waits for the kernel before
        assert names["PREEXIT"] == 1, (kernel, names)  # lets the next one begin
        assert not {"LDL", "STL", "CALL"} & {name.split(".")[0] for name in names}, (kernel, names)


def test_outputs_of_bytes_round_each_operation(sass: dict[tuple[str, str], list[str]]) -> None:
    for kernel, names in kernels(sass).items():
        if not is_of_bytes(kernel):
            continue
        assert not [name for name in names if name.startswith("FFMA")], (kernel, names)
        assert names["FMUL"] == columns_of(kernel) // 2, (kernel, names)  # one a sum
        assert names["FADD"] >= columns_of(kernel) // 2, (kernel, names)


def test_other_devices_get_none_of_it(sass: dict[tuple[str, str], list[str]]) -> None:
    found = [instructions for (arch, kernel), instructions in sass.items() if STEM in kernel and arch == "sm_80"]
    assert len(found) == INSTANCES
    for instructions in found:
        assert {instruction.split()[0] for instruction in instructions} <= {"EXIT", "BRA", "NOP", "MOV"}, instructions
