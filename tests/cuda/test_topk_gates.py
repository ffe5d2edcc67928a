"""The search's kernels in the built CUDA library: registers, instructions. See test_gates.py."""

from __future__ import annotations

import re
from collections import Counter

from test_gates import check_registers

# Kernel -> instances (metrics, stored types, operand types), registers at most, so that as many blocks as planned share
# a multiprocessor's 65536: 2 of 256 threads, 2 of 128, 3 of 256 and more.
KERNELS = {
    "RowsKernel": (24, 85),
    "ScoreExactKernel": (9, 128),
    "ScoreHalfKernel": (3, 128),
    "FusedKernel": (3, 255),
    "FusedWgmmaKernel": (4, 168),  # what its warpgroups exchange among themselves
    "SeedKernel": (3, 85),
    "SelectKernel": (2, 85),
    "FinishKernel": (12, 85),
}


def kernel_of(mangled: str) -> str | None:
    found = re.search(r"topk_kernel\w*?\d(\w+Kernel)I", mangled)
    return next((name for name in KERNELS if found is not None and found[1].endswith(name)), None)


def test_every_instance_is_there_and_keeps_to_its_registers(ptxas: str) -> None:
    check_registers(ptxas, KERNELS, kernel_of)


def test_coarse_scores_come_from_the_tensor_cores(sass: dict[tuple[str, str], list[str]]) -> None:
    # A warp's 32 x 64 tile is 2 x 8 products for 16 columns, or pairs of bytes; a step has 32, of the fused kernel 64.
    operands = {"4Half": "HMMA.16816.F32", "6Bfloat": "HMMA.16816.F32.BF16", "8BytePair": "IMMA.16832.S8.S8"}
    steps = {"ScoreHalfKernel": 2, "FusedKernel": 4}
    seen = 0
    for (arch, mangled), instructions in sass.items():
        name = kernel_of(mangled)
        if name not in steps:
            continue
        seen += 1
        names = Counter(instruction.split()[0] for instruction in instructions)
        want = next(product for operand, product in operands.items() if operand in mangled)
        products = {n: c for n, c in names.items() if n.startswith(("HMMA", "IMMA"))}
        assert products == {want: 16 * steps[name]}, (arch, mangled)
        assert names["LDSM.16.M88.4"] == 6 * steps[name], (arch, mangled)
        assert any(re.match(r"LDGSTS\.E\.BYPASS.*128", n) for n in names), (arch, mangled)
        if name == "FusedKernel":  # no score leaves the chip: one multiply-add and one compare each
            assert names["FFMA"] <= 64 + 8, (arch, mangled)
    assert seen == 2 * 6


def test_on_hopper_tiles_come_by_tma_and_scores_from_wgmma(sass: dict[tuple[str, str], list[str]]) -> None:
    seen = 0
    for (arch, mangled), instructions in sass.items():
        if kernel_of(mangled) != "FusedWgmmaKernel":
            continue
        seen += 1
        names = Counter(instruction.split()[0] for instruction in instructions)
        if arch != "sm_90a":
            assert len(instructions) < 32, (arch, mangled)  # never launched there
            continue
        rows = 256 if "Lb1E" in mangled else 128
        shape = f"HGMMA.64x{rows}x16.F32" + (".BF16" if "6Bfloat" in mangled else "")
        assert {n: c for n, c in names.items() if "MMA" in n and not n.startswith("UTMA")} == {shape: 4}, mangled
        assert names["UTMALDG.2D"] >= 3, mangled  # queries, rows, facts
        assert not [n for n in names if n.startswith(("LDGSTS", "LDL", "STL"))], mangled
        assert any(n.startswith("USETMAXREG.TRY_ALLOC") for n in names), mangled
        assert any(n.startswith("USETMAXREG.DEALLOC") for n in names), mangled
        assert names["WARPGROUP.DEPBAR.LE"] == 2, mangled  # of the slab before, and of the tile
        # A score that does not pass costs a product, a multiply-add and a comparison that is or-ed into one predicate a
        # query; those of the 64 or 128 of a thread that may pass are looked at again.
        scores = rows // 2
        assert names["FSETP.GEU.OR"] >= scores - 8, mangled
        assert names["FMUL"] <= scores + 8, mangled
        assert names["FFMA"] <= scores * 3 // 2 + 8, mangled
    assert seen == 2 * KERNELS["FusedWgmmaKernel"][0]


def test_exact_scores_use_no_tensor_cores(sass: dict[tuple[str, str], list[str]]) -> None:
    seen = 0
    for (arch, mangled), instructions in sass.items():
        if kernel_of(mangled) != "ScoreExactKernel":
            continue
        seen += 1
        names = Counter(instruction.split()[0] for instruction in instructions)
        assert not [name for name in names if name.startswith(("HMMA", "HGMMA"))], (arch, mangled)
        assert names["FFMA"] == 4 * 8 * 8, (arch, mangled)  # 4 x 8 scores, 8 columns a step
        assert names["LDS.128"] == 3 * 8, (arch, mangled)
    assert seen == 2 * KERNELS["ScoreExactKernel"][0]
