"""`import`: an ml-fct checkpoint becomes a bundle; a pickle only on request, and only in another process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_support import NEW_DIM, OLD_DIM, SIDE_DIM, Outcome, World
from safetensors.torch import save_file
from torch import nn

from fct_fast.bundle import read_bundle
from fct_fast.importers import from_ml_fct

Run = Callable[..., Outcome]
State = dict[str, torch.Tensor]


class Block(nn.Module):
    """As in ml-fct: a 1x1 convolution, and BatchNorm but for the last."""

    def __init__(self, into: int, out: int, last: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(into, out, 1, bias=last)
        self.normalizer = nn.Identity() if last else nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.normalizer(self.conv(x))


class MlFct(nn.Module):
    def __init__(self, side: int = SIDE_DIM) -> None:
        super().__init__()
        self.p1 = nn.Sequential(Block(OLD_DIM, 2 * OLD_DIM), Block(2 * OLD_DIM, 2 * NEW_DIM))
        self.p2 = nn.Sequential(Block(side, 2 * side), Block(2 * side, 2 * NEW_DIM))
        self.mixer = nn.Sequential(Block(4 * NEW_DIM, 20), Block(20, 20), Block(20, NEW_DIM, last=True))

    def forward(self, old: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        return self.mixer(torch.cat([self.p1(old), self.p2(side)], dim=1))


@pytest.fixture
def model() -> Iterator[MlFct]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield MlFct().eval()


@pytest.fixture
def state(model: MlFct) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_h(path: Path, state: State) -> bool:
    return read_bundle(path).spec == from_ml_fct(state).to_spec()


def test_a_safetensors_state_dict(world: World, run: Run, state: State) -> None:
    save_file(state, world / "ckpt.safetensors")
    rows = ["--old", world / "old.npy", "--side", world / "side.npy", "--old-space", "old-9"]
    told = run("import", world / "ckpt.safetensors", "--out", world / "i.safetensors", *rows, "--json")
    assert (told.code, told.err) == (0, "")
    assert told.document == {
        "out": str(world / "i.safetensors"),
        "digest": read_bundle(world / "i.safetensors").digest,
        "old_dim": OLD_DIM,
        "side_dim": SIDE_DIM,
        "new_dim": NEW_DIM,
    }
    assert same_h(world / "i.safetensors", state)
    spaces = read_bundle(world / "i.safetensors").spaces
    assert (spaces.keys(), spaces["old"].model_id) == ({"old", "side"}, "old-9")


def script(model: MlFct, state: State, path: Path) -> None:
    torch.jit.save(torch.jit.trace(model, (torch.zeros(1, OLD_DIM, 1, 1), torch.zeros(1, SIDE_DIM, 1, 1))), path)


def plain(model: MlFct, state: State, path: Path) -> None:
    torch.save(state, path)


def old_format(model: MlFct, state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def nested(model: MlFct, state: State, path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("write", [script, plain, old_format, nested])
def test_a_pickle_needs_the_flag(
    world: World, run: Run, model: MlFct, state: State, write: Callable[[MlFct, State, Path], None]
) -> None:
    write(model, state, world / "ckpt.pt")
    words = ["import", world / "ckpt.pt", "--out", world / "i.safetensors"]
    run(*words).failed(1, "ckpt.pt", "can run any code", "--allow-pickle")
    assert not (world / "i.safetensors").exists()
    told = run(*words, "--allow-pickle")
    assert told.code == 0, told.err
    assert "spaces measured  none" in told.out
    assert same_h(world / "i.safetensors", state)


class Talkative:
    """Pickled code that notes the process it runs in, prints, and gives a state dict."""

    def __init__(self, state: State, mark: Path) -> None:
        self.state, self.mark = state, mark

    def __reduce__(self) -> Any:
        code = f"(open({str(self.mark)!r}, 'w').write(str(__import__('os').getpid())), print('noise'), state)[2]"
        return eval, (code, {"state": self.state})


def test_the_code_of_a_pickle_runs_elsewhere_and_cannot_disturb_the_output(
    world: World, run: Run, state: State
) -> None:
    torch.save(Talkative(state, world / "mark"), world / "ckpt.pt")
    words = ["import", world / "ckpt.pt", "--out", world / "i.safetensors", "--json"]
    run(*words).failed(1, "--allow-pickle")
    assert not (world / "mark").exists()
    told = run(*words, "--allow-pickle")
    assert told.document["new_dim"] == NEW_DIM
    assert int((world / "mark").read_text()) != os.getpid()
    assert same_h(world / "i.safetensors", state)


def test_what_is_no_checkpoint(world: World, run: Run, state: State) -> None:
    words = ["--out", world / "i.safetensors", "--allow-pickle"]
    run("import", world / "nothing.pt", *words).failed(1, "nothing.pt")
    (world / "text.pt").write_text("hello")
    run("import", world / "text.pt", *words).failed(1, "text.pt", "safetensors")
    (world / "zip.pt").write_bytes(b"PK\x03\x04 and no more")
    run("import", world / "zip.pt", *words).failed(1, "zip.pt", "cannot be converted")
    torch.save([1, 2], world / "list.pt")
    run("import", world / "list.pt", *words).failed(1, "list.pt", "not a state dict")
    del state["p1.0.conv.weight"]
    save_file(state, world / "less.safetensors")
    run("import", world / "less.safetensors", *words).failed(1, "p1.0.conv.weight")
    assert not (world / "i.safetensors").exists()


def test_rows_of_another_width_are_refused(world: World, run: Run, state: State) -> None:
    save_file(state, world / "ckpt.safetensors")
    words = ["import", world / "ckpt.safetensors", "--out", world / "i.safetensors"]
    run(*words, "--old", world / "side.npy").failed(1, "side.npy", str(SIDE_DIM), str(OLD_DIM))
    run(*words, "--old-space", "x").failed(2, "old_space")
    world.save("nan.npy", np.full((40, OLD_DIM), np.nan, np.float32))
    run(*words, "--old", world / "nan.npy").failed(1, "row 0")
    assert not (world / "i.safetensors").exists()
