"""`doctor` measures the kernels for real, and says what is missing in one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_support import Outcome, environment

import fct_fast
from fct_fast.cli import selftest
from fct_fast.cli.selftest import self_test
from fct_fast.errors import DeviceError
from fct_fast.kernels import capabilities, native

Run = Callable[..., Outcome]


def test_a_sound_installation(run: Run) -> None:
    told = run("doctor", "--json")
    assert (told.code, told.err) == (0, "")
    report = told.document
    assert report["usable"]
    assert report["problem"] is None
    assert report["kernels"] == capabilities()
    errors = report["self_test"]["error"]
    assert errors["fp32"].keys() == set(report["kernels"]["cpu_levels"])
    assert errors["bf16"].keys() == {level for level in errors["fp32"] if native().has_bf16(level)}
    assert all(0 < error <= 2e-6 for error in errors["fp32"].values())
    assert all(1e-5 < error <= 1e-2 for error in errors["bf16"].values())
    assert errors["int8"].keys() == errors["fp32"].keys()
    assert all(1e-3 < error <= 3e-2 for error in errors["int8"].values())
    assert len(set(errors["int8"].values())) == 1, "int8 has the same bits at every level"
    by_precision = report["kernels"]["kernels_by_precision"]
    assert by_precision.keys() == {"fp32", "bf16", "int8"}
    assert (by_precision["bf16"] is None) == (not native().has_bf16(report["kernels"]["cpu_level"]))
    assert by_precision["fp32"].split()[0] in report["kernels"]["cpu_levels"]
    assert report["packages"]["numpy"]


def test_for_people(run: Run) -> None:
    told = run("doctor")
    facts = dict(line.split(None, 1) for line in told.out.splitlines())
    assert facts["result"] == "usable"
    assert facts["cuda"] == capabilities()["cuda"]


def test_a_forced_level_is_told_and_an_unknown_one_is_a_problem(spawn: Run) -> None:
    told = spawn("doctor", env={**environment(), "FCT_FAST_CPU_LEVEL": "scalar"})
    assert "forced by FCT_FAST_CPU_LEVEL=scalar" in told.out
    assert "fp32 scalar, bf16 none, int8 scalar" in told.out
    told = spawn("doctor", "--json", env={**environment(), "FCT_FAST_CPU_LEVEL": "mmx"})
    assert told.code == 1
    assert told.document["problem"] in told.err
    assert "mmx" in told.err


def test_a_wrong_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(selftest.ALLOWED, "fp32", 1e-9)
    with pytest.raises(DeviceError, match="upgrade kernel is wrong"):
        self_test(["scalar"])


def test_a_missing_module_is_one_sentence(tmp_path: Path) -> None:
    """A copy of the package without the compiled module; -S, since an editable install would find the real one."""
    shutil.copytree(
        Path(fct_fast.__file__).parent, tmp_path / "fct_fast", ignore=shutil.ignore_patterns("_native*", "__pycache__")
    )
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", "from fct_fast.cli import main; main()", "doctor"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": os.pathsep.join([str(tmp_path), sysconfig.get_paths()["purelib"]])},
    )
    assert done.returncode == 1
    assert "NOT usable" in done.stdout
    assert done.stderr.startswith("fct-fast: the compiled kernels of fct_fast do not load")
    assert len(done.stderr.splitlines()) == 1
