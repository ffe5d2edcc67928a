"""What a user could run h with instead: torch in several forms, and ONNX Runtime where it is installed."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fct_fast import TransformSpec

__all__ = ["Chain", "compiled_chain", "folded_chain", "onnx_chain"]

Chain = Callable[[Tensor, Tensor | None], object]


def folded_chain(spec: TransformSpec, dtype: torch.dtype = torch.float32) -> Chain:
    """The fastest plain torch form of this spec: two branches, a trunk, BatchNorm folded."""
    layers = [
        (torch.from_numpy(la.weight).to(dtype), torch.from_numpy(la.bias).to(dtype), la.relu)
        for _, la in spec.named_layers()
    ]
    counts = list(itertools.accumulate((len(branch.layers) for branch in spec.branches), initial=0))

    def run_layers(x: Tensor, first: int, last: int) -> Tensor:
        for weight, bias, relu in layers[first:last]:
            x = F.linear(x, weight, bias)
            if relu:
                x = torch.relu_(x)
        return x

    def chain(old: Tensor, side: Tensor | None) -> Tensor:
        with torch.inference_mode():
            inputs = {"old": old, "side": side}
            parts = [
                run_layers(inputs[branch.input], counts[i], counts[i + 1]) for i, branch in enumerate(spec.branches)
            ]
            return F.normalize(run_layers(torch.cat(parts, 1), counts[-1], len(layers)))

    return chain


def compiled_chain(spec: TransformSpec, dtype: torch.dtype = torch.float32) -> Chain:
    """The same through torch.compile, which fuses what lies between the products."""
    chain = folded_chain(spec, dtype)
    return torch.compile(chain, dynamic=False)


def onnx_chain(spec: TransformSpec, threads: int) -> Chain | None:
    """The same graph in ONNX Runtime, float32; None where onnx or onnxruntime is not installed."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        return None
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights = [], []
    parts = []
    for branch, layers in [(b.input, b.layers) for b in spec.branches] + [("concat", spec.trunk)]:
        if branch == "concat":
            nodes.append(helper.make_node("Concat", parts, ["concat"], axis=1))
        x = branch
        for i, layer in enumerate(layers):
            name = f"{branch}.{i}"
            weights += [
                numpy_helper.from_array(np.ascontiguousarray(layer.weight.T), f"{name}.weight"),
                numpy_helper.from_array(layer.bias, f"{name}.bias"),
            ]
            nodes.append(helper.make_node("Gemm", [x, f"{name}.weight", f"{name}.bias"], [name]))
            x = name
            if layer.relu:
                nodes.append(helper.make_node("Relu", [x], [f"{name}.relu"]))
                x = f"{name}.relu"
        parts.append(x)
    nodes.append(helper.make_node("LpNormalization", [x], ["new"], axis=1, p=2))
    dims = {"old": spec.old_dim, "side": spec.side_dim}
    inputs = [helper.make_tensor_value_info(b.input, TensorProto.FLOAT, ["n", dims[b.input]]) for b in spec.branches]
    output = helper.make_tensor_value_info("new", TensorProto.FLOAT, ["n", spec.new_dim])
    graph = helper.make_graph(nodes, "h", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def chain(old: Tensor, side: Tensor | None) -> object:
        feed = {"old": old.numpy()} | ({} if side is None else {"side": side.numpy()})
        return torch.from_numpy(session.run(None, feed)[0])

    return chain
