"""Level amx: off unless asked for, never taken where the processor lacks it, and told apart wherever it shows.

What its kernels compute is tested in tests/csrc/emulated; here it runs only on a processor that has it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fct_fast import Upgrader, errors
from fct_fast.kernels import AMX_SWITCH, capabilities, native, resolve_level


def told(code: str, switch: str | None) -> dict[str, object]:
    """What a new process prints as JSON, the switch set so."""
    env = {name: value for name, value in os.environ.items() if name not in (AMX_SWITCH, "FCT_FAST_CPU_LEVEL")}
    if switch is not None:
        env[AMX_SWITCH] = switch
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    return dict(json.loads(done.stdout))


STATE = """
import json
from fct_fast.kernels import capabilities, native, resolve_level
told = capabilities()
print(json.dumps({"levels": native().usable_levels(), "taken": resolve_level(), "text": told["amx"]}))
"""


@pytest.mark.parametrize("switch", [None, "", "0", "yes", "1"])
def test_it_is_off_unless_the_switch_is_1(switch):
    state = told(STATE, switch)
    assert state["taken"] == state["levels"][-1]
    if not native().has_amx():
        assert "amx" not in state["levels"]
        assert state["text"] == "not on this machine"
    elif switch != "1":
        assert "amx" not in state["levels"]
        assert f"{AMX_SWITCH}=1 turns it on" in state["text"]
    else:  # the system may still refuse it
        assert ("amx" in state["levels"]) == state["text"].startswith("turned on")


@pytest.mark.skipif("amx" in native().usable_levels(), reason="level amx is turned on")
def test_asking_for_it_where_it_is_off_is_one_sentence(make_transform):
    with pytest.raises(errors.DeviceError, match="level asks for 'amx', which "):
        resolve_level("amx")
    with pytest.raises(errors.DeviceError, match="level asks for 'amx', which "):
        Upgrader(make_transform(), level="amx")


def test_doctor_has_a_line_for_it():
    assert capabilities()["amx"]


BITS = """
import hashlib, json
import numpy as np
from fct_fast import Upgrader
from fct_fast.cli.selftest import _transform
from fct_fast.kernels import native
rng = np.random.default_rng(0)
spec = _transform(rng)
old, side = rng.standard_normal((257, 19), np.float32), rng.standard_normal((257, 13), np.float32)
def run(precision, level):
    calibration = (old, side) if precision == "int8" else None
    return Upgrader(spec, precision=precision, level=level, calibration=calibration)(old, side)
true = spec.apply_float64(old, side)
print(json.dumps({
    "there": "amx" in native().usable_levels(),
    "int8": [hashlib.sha256(run("int8", level)).hexdigest() for level in native().usable_levels()],
    "bf16": {level: float(np.linalg.norm(run("bf16", level) - true, axis=1).max())
             for level in native().usable_levels() if native().has_bf16(level)},
}))
"""


@pytest.mark.skipif(not native().has_amx(), reason="needs a CPU with AMX")
def test_on_such_a_processor_int8_has_the_same_bits_and_bf16_keeps_its_bound():
    state = told(BITS, "1")
    assert state["there"], "the system does not permit AMX"
    assert len(set(state["int8"])) == 1
    assert 1e-5 < state["bf16"]["amx"] <= 1e-2
