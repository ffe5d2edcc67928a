"""The torch operator: opcheck passes, torch.compile and torch.export see through an Upgrader, also in a new process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from fct_fast import Upgrader, errors
from fct_fast.kernels import ops
from fct_fast.kernels.packing import pack_spec


@pytest.fixture
def inputs(rows):
    return torch.from_numpy(rows(9, 12)), torch.from_numpy(rows(9, 5, 1))


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.float16])
def test_opcheck(out_dtype, small_spec, inputs):
    packed = torch.from_numpy(pack_spec(small_spec))
    arguments = (packed, *inputs, 8, out_dtype, False, True, "", 0)
    torch.library.opcheck(ops.upgrade, arguments)


def test_compile_without_graph_breaks(make_transform, inputs):
    up = Upgrader(make_transform())
    compiled = torch.compile(lambda old, side: up(old * 1.0, side).sum(dim=1), fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), up(*inputs).sum(dim=1))


def test_compiled_code_still_refuses_nan(make_transform, inputs):
    up = Upgrader(make_transform())
    compiled = torch.compile(lambda old, side: up(old, side), fullgraph=True)
    old, side = inputs
    old[3, 2] = float("nan")
    with pytest.raises(errors.NonFiniteError, match="row 3 "):
        compiled(old, side)


def test_an_exported_program_runs_in_a_new_process(tmp_path, make_transform, inputs):
    up = Upgrader(make_transform())

    class Module(torch.nn.Module):
        def forward(self, old, side):
            return up(old, side)

    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(Module(), inputs, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, tmp_path / "up.pt2")
    old, side = (x.repeat(3, 1) for x in inputs)
    np.savez(tmp_path / "x.npz", old=old.numpy(), side=side.numpy())
    code = f"""
import numpy as np, torch
import fct_fast.kernels.ops
x = np.load({str(tmp_path / "x.npz")!r})
program = torch.export.load({str(tmp_path / "up.pt2")!r})
np.save({str(tmp_path / "y.npy")!r}, program.module()(torch.from_numpy(x["old"]), torch.from_numpy(x["side"])).numpy())
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert np.array_equal(np.load(tmp_path / "y.npy"), up(old, side).numpy())


def test_a_program_exported_here_does_not_name_this_machine(make_transform, inputs):
    """Level and threads are the running machine's, unless the user forced them."""
    up = Upgrader(make_transform(side_dim=0))
    up._packed_tensor = None  # as of an Upgrader that was made before torch was imported

    class Module(torch.nn.Module):
        def forward(self, old):
            return up(old)

    program = torch.export.export(Module(), inputs[:1])
    (call,) = [node for node in program.graph.nodes if "fct_fast" in str(node.target)]
    assert call.args[-2:] == ("", 0)
    assert isinstance(up(inputs[0]).numpy(), np.ndarray), "the Upgrader kept a tensor of the trace"


def test_the_default_dtype_of_torch_does_not_matter(make_transform, inputs):
    up = Upgrader(make_transform(uncertainty=True))
    torch.set_default_dtype(torch.float64)
    try:
        new, s = up(*inputs, return_uncertainty=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert new.dtype == s.dtype == torch.float32


def test_torch_and_numpy_give_the_same_bits(make_transform, inputs):
    up = Upgrader(make_transform())
    old, side = inputs
    assert np.array_equal(up(old, side).numpy(), up(old.numpy(), side.numpy()))
    out = torch.empty(9, 8)
    assert up(old, side, out=out) is out
    assert torch.equal(out, up(old, side))
