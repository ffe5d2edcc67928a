"""The evaluation's kernels in the built CUDA library: registers, instructions. See test_gates.py."""

from __future__ import annotations

import re
from collections import Counter

from test_gates import check_registers

# Kernel -> instances, registers at most, so that as many blocks of 256 threads as planned share a multiprocessor.
KERNELS = {
    "RowsKernel": (6, 85),
    "ScoreExactKernel": (2, 128),
    "GatherKernel": (1, 64),
    "SortKernel": (1, 85),
    "CountKernel": (1, 64),
    "PrecisionKernel": (1, 64),
}


def kernel_of(mangled: str) -> str | None:
    found = re.search(r"rank_kernel\w*?\d(\w+Kernel)[IE]", mangled)
    return next((name for name in KERNELS if found is not None and found[1].endswith(name)), None)


def test_every_instance_is_there_and_keeps_to_its_registers(ptxas: str) -> None:
    check_registers(ptxas, KERNELS, kernel_of)


def test_scores_are_exact_and_averages_are_never_fused(sass: dict[tuple[str, str], list[str]]) -> None:
    seen = Counter()
    for (_, mangled), instructions in sass.items():
        name = kernel_of(mangled)
        if name is None:
            continue
        seen[name] += 1
        names = Counter(instruction.split()[0] for instruction in instructions)
        assert not [n for n in names if n.startswith(("HMMA", "HGMMA"))], mangled
        if name == "ScoreExactKernel":
            assert names["FFMA"] == 4 * 8 * 8, mangled  # 4 x 8 scores, 8 columns a step
        if name == "CountKernel":  # counts meet in shared memory
            assert any(n.startswith("ATOMS.POPC.INC") for n in names), mangled
    assert seen == {name: 2 * instances for name, (instances, _) in KERNELS.items()}
