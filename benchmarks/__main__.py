"""python -m benchmarks [NAME ...]: all by default; run on a quiet machine, record into benchmarks/results/."""

from __future__ import annotations

import importlib
import sys

from benchmarks.harness import write


def main(names: list[str]) -> None:
    # evaluate first: its peak memory is that of the process so far.
    for name in names or ["evaluate", "upgrade", "search", "fit", "backfill", "postgres"]:
        found = importlib.import_module(f"benchmarks.bench_{name}").records()
        for record in found:
            print(record.name, record.setting, {key: float(f"{value:.4g}") for key, value in record.figures.items()})
        write(found, name)


if __name__ == "__main__":
    main(sys.argv[1:])
