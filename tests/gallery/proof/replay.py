"""Look at one state of `test_power_cut.py` again: `python tests/gallery/proof/replay.py CASE SEED NUMBER`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from galleries import Bench, chosen
from power_cut import PowerCuts


def main(name: str, seed: str, number: str) -> None:
    case = next(case for case in chosen() if case.name == name)
    with tempfile.TemporaryDirectory() as folder:
        cuts = PowerCuts(Bench(case, Path(folder)), int(seed))
        state = next(cuts.random(int(number)))
        print(f"state {state.label}, after event {state.cut}:\n{state.log.told(state.cut, 1000)}")
        print(cuts.first_finding(iter([state])) or "survived")


if __name__ == "__main__":
    main(*sys.argv[1:4])
