"""The GPU suite's own logic, which needs no GPU: what runs, how a stage ends, what is kept, and the tables."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__ as suite
from benchmarks.gpu import small_shapes
from benchmarks.gpu.ceiling import figures_of
from benchmarks.gpu.chains import MlFct, checked, spec_of
from benchmarks.gpu.correct import counts_of
from benchmarks.gpu.cutlass_layer import CutlassChain, LayerCall
from benchmarks.gpu.event_timer import EventTimer
from benchmarks.gpu.measure import record, timing_of
from benchmarks.gpu.run import ROOT, run_stage
from benchmarks.gpu.sanitize import reports_of
from benchmarks.gpu.stages import MOST_SECONDS, STAGES, chosen
from benchmarks.gpu.state import FILE, FOLDER, Document, markdown, so_far
from benchmarks.gpu.suite_stage import records_of
from fct_fast import Upgrader
from fct_fast.kernels import native


class TestStages:
    def test_each_is_there_short_enough_and_after_what_it_needs(self):
        seen = set()
        for name, stage in STAGES.items():
            module, _, function = stage.run.partition(":")
            source = (ROOT / "benchmarks/gpu" / f"{module}.py").read_text()
            assert f"def {function}(" in source, name
            assert stage.limit_s <= MOST_SECONDS < 9 * 60
            assert set(stage.needs) <= seen, name
            seen.add(name)

    @pytest.mark.parametrize("module", sorted({stage.run.partition(":")[0] for stage in STAGES.values()}))
    def test_modules_import_where_there_is_no_gpu(self, module):
        importlib.import_module(f"benchmarks.gpu.{module}")

    def test_all_but_the_passed_by_default(self):
        assert chosen([], set(), again=False) == list(STAGES)
        assert chosen([], {"build", "memcheck"}, again=False) == [s for s in STAGES if s not in ("build", "memcheck")]
        assert chosen([], {"build"}, again=True) == list(STAGES)

    def test_the_named_in_order(self):
        assert chosen(["time-one", "build"], set(), again=False) == ["build", "time-one"]
        assert chosen(["build"], {"build"}, again=False) == []
        assert chosen(["build"], {"build"}, again=True) == ["build"]

    def test_other_names_are_refused(self):
        with pytest.raises(SystemExit, match="there is no stage 'timing'"):
            chosen(["timing"], set(), again=False)


class TestRun:
    def test_figures_and_output_come_back(self, tmp_path):
        told = {"machine": {"gpu": "G"}, "figures": [1]}
        code = f"import os, sys; print('hello', os.environ['{FOLDER}']); open(sys.argv[1], 'w').write({json.dumps(told)!r})"
        result = run_stage("build", tmp_path, [sys.executable, "-c", code])
        assert result["outcome"] == "passed"
        assert result["log"] == f"hello {tmp_path}\n"
        assert {key: result[key] for key in told} == told

    def test_a_failure_keeps_its_last_words(self, tmp_path):
        code = "print('x' * 9000); raise SystemExit('no GPU is usable')"
        result = run_stage("build", tmp_path, [sys.executable, "-c", code])
        assert (result["outcome"], result["figures"]) == ("failed", None)
        assert result["log"].endswith("no GPU is usable\n")
        assert len(result["log"]) <= 6000

    def test_no_figures_is_a_failure(self, tmp_path):
        assert run_stage("build", tmp_path, [sys.executable, "-c", ""])["outcome"] == "failed"

    def test_a_stage_that_hangs_is_ended_with_its_children(self, tmp_path):
        code = "import subprocess, sys; print('started', flush=True); subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
        start = time.monotonic()
        result = run_stage("build", tmp_path, [sys.executable, "-c", code], limit_s=1.5)
        assert (result["outcome"], result["log"]) == ("timeout", "started\n")
        assert time.monotonic() - start < 20


class TestMain:
    @pytest.fixture
    def ran(self, monkeypatch):
        """The stages that were run; `outcomes` says how they end."""
        ran = []
        outcomes = {}

        def run(name, results):
            ran.append(name)
            outcome = outcomes.get(name, "passed")
            return {"outcome": outcome, "seconds": 10.0, "log": "", "machine": None, "figures": []}

        monkeypatch.setattr(suite, "run_stage", run)
        return ran, outcomes

    def test_a_second_run_goes_on_where_the_first_stopped(self, ran, tmp_path, capsys):
        names, outcomes = ran
        outcomes["correct-search"] = "failed"
        assert suite.main(["--out", str(tmp_path)]) == 1
        left = {name for name, stage in STAGES.items() if "correct-search" in stage.needs}
        assert names == [name for name in STAGES if name not in left]
        assert "time-search: skipped, since correct-search has not passed" in capsys.readouterr().out
        outcomes.clear()
        names.clear()
        assert suite.main(["--out", str(tmp_path)]) == 0
        assert names == [name for name in STAGES if name in left or name == "correct-search"]
        names.clear()
        assert suite.main(["--out", str(tmp_path)]) == 0
        assert names == []
        assert Document.read(tmp_path / FILE).passed() == set(STAGES)
        assert (tmp_path / "gpu.md").read_text().startswith("# gpu\n")

    def test_no_stage_starts_that_may_end_too_late(self, ran, tmp_path, capsys):
        names, _ = ran
        assert suite.main(["--within", "545", "--out", str(tmp_path)]) == 1
        assert names == [
            "build",
            "correct-upgrade",
            "ceiling",
            "time-one",
        ]  # 10 s each, of 530, 530, 120 and 120 at most
        assert "memcheck: not started; it may take 530 s and 525 are left" in capsys.readouterr().out

    def test_the_list(self, ran, tmp_path, capsys):
        suite.main(["build", "--out", str(tmp_path)])
        capsys.readouterr()
        assert suite.main(["--list", "--out", str(tmp_path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == len(STAGES)
        assert lines[0].split()[:2] == ["build", "passed"]
        assert "not run" in lines[1]


class TestReading:
    def test_medians(self):
        assert timing_of([3.0, 1.0, 2.0, 10.0]) == {"median_ms": 2.5, "best_ms": 1.0, "rounds": 4}

    def test_pytests_last_line(self):
        assert counts_of("1 failed\nx\n= 3 passed, 12 skipped, 1 failed in 2.1s =\n") == {
            "passed": 3,
            "skipped": 12,
            "failed": 1,
        }
        assert counts_of("") == {}

    def test_the_sanitizers_summaries(self):
        assert reports_of("========= ERROR SUMMARY: 0 errors\n") == 0
        assert reports_of("========= ERROR SUMMARY: 1 error\n") == 1
        assert reports_of("=== RACECHECK SUMMARY: 3 hazards displayed (1 error, 2 warnings)\n") == 3
        assert reports_of("killed") is None


class TestContenders:
    """What is timed beside each other must be the same thing."""

    def test_ml_fct_and_the_spec_that_is_made_of_it(self, rows):
        torch.manual_seed(0)
        module = MlFct(12, 5, 24, 8)
        with torch.no_grad():
            for _ in range(20):
                module(torch.randn(256, 12), torch.randn(256, 5))
        old, side = rows(50, 12), rows(50, 5, 1)
        with torch.inference_mode():
            theirs = module.eval()(torch.from_numpy(old), torch.from_numpy(side))
        np.testing.assert_allclose(spec_of(module).apply_float64(old, side), theirs, atol=1e-5)

    @pytest.mark.parametrize("side_dim", [0, 5])
    def test_cutlass_layers_are_chained_into_h(self, rows, make_transform, side_dim):
        spec = make_transform(side_dim=side_dim).to_spec()

        def layer(x, weight, bias, y, relu):  # what the C function says it does
            y.copy_(torch.nn.functional.linear(x, weight, bias))
            if relu:
                y.clamp_min_(0)

        old, side = (rows(9, 12), rows(9, 5, 1))
        chain = CutlassChain(layer, spec, 9, torch.float32, "cpu")
        new = chain(torch.from_numpy(old), torch.from_numpy(side))
        want = spec.apply_float64(old, side if side_dim else None)
        np.testing.assert_allclose(new, want, atol=1e-5)

    def test_a_cutlass_call_lies_in_memory_as_the_header_says(self, tmp_path):
        source = tmp_path / "layout.c"
        facts = [
            f"offsetof(FctSecondLayer, {name}) == {getattr(LayerCall, name).offset}" for name, _ in LayerCall._fields_
        ]
        facts += [f"sizeof(FctSecondLayer) == {ctypes.sizeof(LayerCall)}"]
        asserts = "".join(f'_Static_assert({fact}, "{fact}");\n' for fact in facts)
        source.write_text(f'#include <stddef.h>\n#include "cuda/second_opinion/layer.h"\n{asserts}')
        command = ["cc", "-std=c11", "-fsyntax-only", f"-I{ROOT / 'csrc'}", str(source)]
        subprocess.run(command, check=True)

    def test_the_sanitizers_shapes_are_transforms(self, rows):
        spec = small_shapes.spec_of(7, 3, 40, 9)
        new = Upgrader(spec)(rows(20, 7), rows(20, 3, 1))
        np.testing.assert_allclose(new, spec.apply_float64(rows(20, 7), rows(20, 3, 1)), atol=1e-5)

    def test_a_contender_that_computes_something_else_is_refused(self):
        checked("same", torch.ones(3), torch.ones(3) + 1e-5, 1e-3)
        with pytest.raises(SystemExit, match="other differs from float64 by"):
            checked("other", torch.ones(3), 2 * torch.ones(3), 1e-3)
        with pytest.raises(SystemExit):
            checked("nothing", torch.full((3,), float("nan")), torch.ones(3), 1e-3)


class TestSuite:
    """benchmarks/gpu/suite: the cases of pytest-benchmark."""

    def test_its_json_becomes_tables(self, tmp_path):
        case = tmp_path / "test_here.py"
        case.write_text(
            """
import pytest
@pytest.mark.parametrize("contender", ["ours", "theirs"])
@pytest.mark.parametrize("k", [1, 2])
def test_case(benchmark, contender, k):
    benchmark.group = f"k = {k}"
    benchmark.extra_info["rows/s"] = 5.0
    benchmark.pedantic(lambda: None, rounds=3 * k)
"""
        )
        command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_benchmark.plugin", str(case)]
        # Other plugins take seconds to start; a benchmark that finds itself under xdist measures nothing.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        told = tmp_path / "told.json"
        subprocess.run(
            [*command, f"--benchmark-json={told}"], cwd=tmp_path, env=environment, capture_output=True, check=True
        )
        document = json.loads(told.read_text())
        stats = {(case["group"], case["params"]["contender"]): case["stats"] for case in document["benchmarks"]}
        tables = records_of(document)
        assert [table["name"] for table in tables] == ["k = 1", "k = 2"]
        for k, table in enumerate(tables, start=1):
            assert list(table["timings"]) == ["ours", "theirs"]
            for contender, timing in table["timings"].items():
                assert timing["rounds"] == 3 * k
                assert timing["median_ms"] == pytest.approx(1e3 * stats[table["name"], contender]["median"])
                assert timing["best_ms"] == pytest.approx(1e3 * stats[table["name"], contender]["min"])
            assert table["figures"] == {"rows/s, ours": 5.0, "rows/s, theirs": 5.0}

    @pytest.mark.parametrize(
        "file", sorted((ROOT / "benchmarks/gpu/suite").glob("test_*.py")), ids=lambda file: file.stem
    )
    def test_its_cases_name_contenders_and_are_found_where_there_is_no_gpu(self, file):
        module = importlib.import_module(f"benchmarks.gpu.suite.{file.stem}")
        cases = [case for name, case in vars(module).items() if name.startswith("test_")]
        assert cases
        for case in cases:
            names = [mark.args[0] for mark in case.pytestmark if mark.name == "parametrize"]
            assert "contender" in names, case

    @pytest.mark.parametrize(
        ("devices", "told", "want"),
        [
            ([], "no NVIDIA driver is installed", "no usable GPU: no NVIDIA driver is installed"),
            ([], "", "no usable GPU: this process sees no CUDA device"),
            ([{"name": "G"}], "", None),
        ],
    )
    def test_its_cases_skip_with_a_reason(self, monkeypatch, devices, told, want):
        conftest = importlib.import_module("benchmarks.gpu.suite.conftest")
        monkeypatch.setattr(native(), "cuda_state", lambda: {"devices": devices, "problem": told})
        assert conftest.problem() == want

    def test_the_devices_clock_adds_up_events(self, monkeypatch):
        clock = iter([1e9, 1e9 + 250.0, 1e9 + 1250.0])  # milliseconds

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing
                self.seen, self.at = 0, None

            def record(self):
                self.at = next(clock)

            def synchronize(self):
                self.seen += 1

            def elapsed_time(self, later):
                assert self.seen == later.seen == 1  # both have happened
                return later.at - self.at

        monkeypatch.setattr(torch.cuda, "Event", Event)
        timer = EventTimer()
        assert [timer(), timer(), timer()] == [0.0, 0.25, 1.25]


class TestDocument:
    @pytest.fixture
    def document(self):
        timings = {"ours": timing_of([2.0]), "theirs": timing_of([0.25, 0.35, 0.3])}
        figures = [
            record("upgrade", {"rows": 5}, timings, {"rows/s": 2500.0, "note": "a"}),
            record("empty", {}, {}, {"reports": 0}),
        ]
        stage = {
            "outcome": "passed",
            "seconds": 12.3,
            "log": "",
            "machine": {"gpu": "G", "driver": None, "torch": "2"},
            "figures": figures,
        }
        failed = {"outcome": "timeout", "seconds": 530.0, "log": "...", "machine": None, "figures": None}
        return Document({"time-upgrade": stage, "memcheck": failed})

    def test_what_is_written_is_what_is_read(self, document, tmp_path, monkeypatch):
        document.write(tmp_path / "new" / FILE)
        assert Document.read(tmp_path / "new" / FILE) == document
        assert [path.name for path in (tmp_path / "new").iterdir()] == [FILE]
        assert Document.read(tmp_path / "none.json").stages == {}
        monkeypatch.setenv(FOLDER, str(tmp_path / "new"))
        assert so_far() == document
        monkeypatch.delenv(FOLDER)
        assert so_far().stages == {}

    def test_outcomes(self, document):
        assert document.passed() == {"time-upgrade"}
        assert document.outcome("memcheck") == "timeout"
        assert document.outcome("build") == "not run"

    def test_tables(self, document):
        assert (
            markdown(document)
            == """# gpu

| stage | outcome | seconds | on |
|---|---|---|---|
| time-upgrade | passed | 12 | G, 2 |
| memcheck | timeout | 530 |  |

## time-upgrade: upgrade

rows = 5

| contender | median | best | rounds |
|---|---|---|---|
| ours | 2 ms | 2 ms | 1 |
| theirs | 300 us | 250 us | 3 |

- rows/s: 2500
- note: a

## time-upgrade: empty

- reports: 0
"""
        )

    def test_the_ceilings_figures(self):
        figures = [record("what the device reaches", {}, {}, {"matmul TFLOP/s": 700.0})]
        assert figures_of(Document({"ceiling": {"figures": figures}})) == {"matmul TFLOP/s": 700.0}
        assert figures_of(Document()) == {}
        assert figures_of(Document({"ceiling": {"figures": None}})) == {}
