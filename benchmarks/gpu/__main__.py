"""python -m benchmarks.gpu [STAGE ...]: every stage that has not passed yet, or those named; see --help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.gpu.run import run_stage
from benchmarks.gpu.stages import STAGES, chosen
from benchmarks.gpu.state import FILE, Document, markdown
from benchmarks.harness import RESULTS


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="of: " + ", ".join(STAGES))
    parser.add_argument("--list", action="store_true", help="say what each stage does and how it went, and end")
    parser.add_argument("--again", action="store_true", help="also run stages that have passed")
    parser.add_argument("--within", type=float, metavar="S", help="start no stage that may end after so many seconds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where gpu.json and gpu.md go")
    options = parser.parse_args(arguments)
    document = Document.read(options.out / FILE)
    if options.list:
        for name, stage in STAGES.items():
            print(f"{name:<18} {document.outcome(name):<8} {stage.what}")
        return 0
    left = options.within
    for name in chosen(options.stages, document.passed(), again=options.again):
        stage = STAGES[name]
        missing = [need for need in stage.needs if need not in document.passed()]
        if missing:
            print(f"{name}: skipped, since {', '.join(missing)} has not passed", flush=True)
            continue
        if left is not None and stage.limit_s > left:
            print(f"{name}: not started; it may take {stage.limit_s} s and {left:.0f} are left", flush=True)
            continue
        print(f"{name}: {stage.what}", flush=True)
        result = run_stage(name, options.out)
        left = None if left is None else left - result["seconds"]
        document.record(name, result)
        document.write(options.out / FILE)
        (options.out / "gpu.md").write_text(markdown(document))
        print(f"{name}: {result['outcome']} after {result['seconds']:.0f} s", flush=True)
        if result["outcome"] != "passed":
            print(result["log"], flush=True)
    return 0 if all(document.outcome(name) == "passed" for name in options.stages or STAGES) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
