"""plan, backfill, status, verify, cutover, rollback: the whole way of a gallery, and what stops on it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_support import NEW_DIM, ROWS, Outcome, World

from fct_fast.bundle import read_bundle, write_bundle
from fct_fast.errors import StoreError
from fct_fast.gallery import Job
from fct_fast.kernels import native
from fct_fast.kernels.int8 import activation_maxima

Run = Callable[..., Outcome]
Start = Callable[..., subprocess.Popen[str]]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_plan_says_what_would_be_done_and_writes_nothing(world: World, run: Run) -> None:
    before = files(world.folder)
    backfill = world.backfill("--shard-rows", 500, "--json")
    told = run("plan", *backfill[1:])
    assert (told.code, told.err) == (0, "")
    plan = told.document
    assert (plan["rows"], plan["shards"], plan["shard_rows"], plan["phase"]) == (ROWS, 3, 500, "planned")
    assert plan["bytes_out"] == ROWS * NEW_DIM * 4
    assert plan["new_space"]["model_id"] == "new-1"
    dry = run(*backfill, "--dry-run").document
    assert {**dry, "seconds": 0} == {**plan, "seconds": 0}
    assert files(world.folder) == before


def test_plan_for_people(world: World, run: Run) -> None:
    told = run("plan", *world.backfill()[1:])
    assert told.code == 0
    for part in (
        "1,200, of 16 values and side-information of 5",
        "12 values of float32",
        "new-1",
        "Nothing may change the source",
    ):
        assert part in told.out


def test_the_whole_way(world: World, run: Run) -> None:
    """backfill, again, status, verify, cutover, rollback; each with one JSON object on stdout."""
    told = run(*world.backfill("--shard-rows", 500, "--json"))
    assert told.code == 0
    assert told.err == told.err.splitlines()[0] + "\n"
    assert told.err.startswith("backfill: 1,200 of 1,200 rows, ")
    assert (told.document["rows"], told.document["resumed"], told.document["shards"]) == (ROWS, 0, 3)
    np.testing.assert_allclose(world.load("up.npy"), world.load("new.npy"), atol=1e-6)
    again = run(*world.backfill("--shard-rows", 500, "--json"))
    assert again.document["resumed"] == ROWS

    assert run("status", world / "up.npy", "--json").document["phase"] == "complete"
    run("cutover", world / "up.npy").failed(3, "not verified")
    assert run("verify", world / "up.npy", "--json").document["passed"]
    assert run("status", world / "up.npy.job", "--json").document["phase"] == "verified"
    pointer = run("cutover", world / "up.npy", "--json").document
    assert pointer["gallery"] == str(world / "up.npy")
    assert pointer["space"]["model_id"] == "new-1"
    assert json.loads((world / "live.json").read_text()) == pointer
    assert run("status", world / "up.npy", "--json").document["phase"] == "live"
    assert run("rollback", world / "up.npy", "--json").document["gallery"] == str(world / "old.npy")


def test_for_people(world: World, run: Run) -> None:
    told = run(*world.backfill("--verify"))
    assert told.code == 0
    assert "embed queries with this model" in told.out
    assert "ok    checksums" in told.out
    assert "verified in" in told.out
    assert "1,200 of 1,200 committed" in run("status", world / "up.npy").out
    cut = run("cutover", world / "up.npy", "--live", world / "pointer.json").out
    assert cut.splitlines()[0] == f"live: {world / 'up.npy'}"
    assert "'new-1' (12 values, metric cosine)" in cut
    assert run("rollback", world / "up.npy").out.startswith(f"live: {world / 'old.npy'}\n")


def test_options_reach_the_job(world: World, run: Run) -> None:
    old = world.load("old.npy")
    old[3, 2] = np.nan
    world.save("old.npy", old)
    world.save("ids.npy", np.arange(ROWS) * 10)
    options = ["--out-dtype", "float16", "--nonfinite", "flag", "--limit", 100, "--ids", world / "ids.npy"]
    told = run(*world.backfill(*options, "--job-dir", world / "j", "--threads", 1, "--json", sink="folder"))
    assert (told.document["rows"], told.document["flagged"]) == (100, 1)
    assert told.document["job_dir"] == str(world / "j")
    shard = np.load(
        next(path for path in (world / "folder").iterdir() if path.name.endswith(".npy") and ".ids" not in path.name)
    )
    assert (shard.dtype, shard.shape) == (np.float16, (100, NEW_DIM))
    assert not shard[3].any()
    assert "1 (row 3)" in run("status", world / "j").out


@pytest.mark.skipif(not native().has_bf16(native().resolve_level("")), reason="needs AVX-512 BF16")
def test_a_job_in_bf16(world: World, run: Run) -> None:
    told = run(*world.backfill("--precision", "bf16", "--verify"))
    assert told.code == 0
    assert 1e-4 < np.abs(world.load("up.npy") - world.load("new.npy")).max() < 2e-2


def test_the_device_is_chosen_by_name(world: World, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA is off unless it is turned on; cpu is what auto takes."""
    monkeypatch.delenv("FCT_FAST_CUDA_UNVERIFIED", raising=False)
    run(*world.backfill("--device", "cuda")).failed(1, "FCT_FAST_CUDA_UNVERIFIED=1 turns them on")
    run(*world.backfill("--device", "gpu")).failed(2, "device is 'gpu'")
    run(*world.backfill("--precision", "fp16")).failed(2, "precision is 'fp16'")
    assert run(*world.backfill("--device", "cpu")).code == 0


def test_a_job_in_int8_needs_a_bundle_with_scales(world: World, run: Run) -> None:
    run(*world.backfill("--precision", "int8")).failed(2, "needs activation scales")
    maxima = activation_maxima(world.spec, world.load("old.npy"), world.load("side.npy"))
    bundle = read_bundle(world / "h.safetensors")
    scales = {"activation_max": maxima, "rows": ROWS}
    write_bundle(world / "h.safetensors", spec=bundle.spec, spaces=bundle.spaces, scales=scales)
    told = run(*world.backfill("--precision", "int8", "--verify"))
    assert told.code == 0
    assert 1e-4 < np.abs(world.load("up.npy") - world.load("new.npy")).max() < 6e-2
    run(*world.backfill("--precision", "fp32")).failed(1, "precision was int8 and is fp32")


def test_a_damaged_gallery_fails_its_verification_with_code_3(world: World, run: Run) -> None:
    assert run(*world.backfill()).code == 0
    new = np.load(world / "up.npy", mmap_mode="r+")
    new[5, 0] += 0.25
    new.flush()
    told = run("verify", world / "up.npy", "--json")
    assert told.code == 3
    assert not told.document["passed"]
    assert "failed its verification" in told.err.splitlines()[-1]
    told = run("verify", world / "up.npy")
    assert told.code == 3
    assert "FAIL  checksums" in told.out
    run("cutover", world / "up.npy").failed(3, "failed")
    repaired = run(*world.backfill("--repair", "--verify", "--json"))
    assert repaired.code == 0
    assert repaired.document["verification"]["passed"]


def test_verify_against_true_embeddings(world: World, run: Run) -> None:
    run(*world.backfill())
    chosen = np.arange(0, ROWS, 7)
    reference = [
        "--reference",
        world.save("r.npy", world.load("new.npy")[chosen]),
        "--reference-ids",
        world.save("i.npy", chosen),
    ]
    assert run("verify", world / "up.npy", *reference, "--min-overlap", 0.99, "--json").document["overlap"] > 0.99
    noise = np.random.default_rng(0).standard_normal((len(chosen), NEW_DIM), np.float32)
    reference[1] = world.save("noise.npy", noise)
    told = run("verify", world / "up.npy", *reference, "--min-overlap", 0.5, "--json")
    assert told.code == 3
    assert told.document["overlap"] < 0.2


def big(world: World, rows: int = 100_000) -> list[object]:
    """A backfill of many small shards, long enough to be stopped on the way."""
    times = -(-rows // ROWS)
    for name in ("old", "side"):
        world.save(f"{name}.npy", np.tile(world.load(f"{name}.npy"), (times, 1))[:rows])
    return world.backfill("--shard-rows", 100, "--threads", 1)


def until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def committed(world: World) -> int:
    try:
        return Job.open(world / "up.npy").status().rows
    except StoreError:
        return 0


def test_ctrl_c_keeps_the_ledger_and_the_same_command_goes_on(world: World, start: Start, run: Run) -> None:
    words = big(world)
    process = start(*words, "--json")
    until(lambda: committed(world) >= 300, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    done = run("status", world / "up.npy", "--json").document
    assert done["phase"] == "stopped"
    assert 300 <= done["rows"] < 100_000
    assert err.splitlines()[-1] == (
        f"fct-fast: interrupted; {done['rows']:,} of 100,000 rows are committed in {world / 'up.npy.job'}, "
        f"run the same command again to go on"
    )
    run("cutover", world / "up.npy").failed(3, "not complete")
    told = run("plan", *words[1:])
    assert f"stopped, {done['rows']:,} rows are committed" in told.out
    resumed = run(*words, "--json").document
    assert resumed["resumed"] == done["rows"]
    undisturbed = run(*[str(word).replace("up.npy", "up2.npy") for word in words])
    assert undisturbed.code == 0
    assert (world / "up.npy").read_bytes() == (world / "up2.npy").read_bytes()


def test_a_second_job_in_the_same_directory_is_refused(world: World, start: Start, run: Run) -> None:
    words = big(world, 600_000)
    process = start(*words)
    until(lambda: committed(world) >= 100, process)
    run(*words).failed(1, "another process")
    assert run("status", world / "up.npy", "--json").document["phase"] == "running"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    run(*words, "--out-dtype", "float16").failed(1, "belongs to another job", "out_dtype")


def test_a_full_disk_is_one_sentence_and_keeps_what_is_committed(world: World, spawn: Run, run: Run) -> None:
    """A limit on the size of files stands in for a disk; without it the same command ends the job."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    told = spawn(*world.backfill("--shard-rows", 100), preexec_fn=limit)
    told.failed(1, "cannot write", "up.npy")
    done = run("status", world / "up.npy", "--json").document
    assert 0 < done["rows"] < ROWS
    again = run(*world.backfill("--shard-rows", 100, "--verify", "--json")).document
    assert again["resumed"] == done["rows"]
    assert again["verification"]["passed"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(world: World, run: Run) -> None:
    world.folder.chmod(0o555)
    try:
        run(*world.backfill()).failed(1, "permission")
    finally:
        world.folder.chmod(0o755)
