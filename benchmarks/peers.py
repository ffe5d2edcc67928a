"""What a user could run h with instead of torch in eager mode: torch.compile, and ONNX Runtime where installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from torch import Tensor

from fct_fast import TransformSpec
from fct_fast.bench import Chain, folded_chain

__all__ = ["compiled_chain", "onnx_chain"]


def compiled_chain(spec: TransformSpec, dtype: torch.dtype = torch.float32) -> Chain:
    """folded_chain through torch.compile, which fuses what lies between the products."""
    return torch.compile(folded_chain(spec, dtype), dynamic=False)


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
