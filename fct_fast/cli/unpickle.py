"""Run as a program, in a process of its own: the tensors of a pickle or TorchScript file, as safetensors, on stdout.

Opening such a file can run any code that is in it. So it happens here, where nothing else is at work, and the parent
reads plain tensors only. Imports nothing of fct_fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any


def main(path: str) -> None:
    result = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the file's code may print must not mix with the tensors
    import torch
    from safetensors.torch import save

    try:
        tensors = _tensors(_opened(path, torch), torch)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    if not tensors:
        sys.exit("the file holds no tensors by name")
    with result:
        result.write(save(tensors))


def _opened(path: str, torch: Any) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # a plain state dict needs no code of its own
    except Exception:
        pass
    try:
        return torch.jit.load(path, map_location="cpu")
    except RuntimeError:
        return torch.load(path, map_location="cpu", weights_only=False)


def _tensors(opened: Any, torch: Any) -> dict[str, Any]:
    """Names and tensors of a module, a state dict, or a checkpoint that holds one."""
    state = opened.state_dict() if hasattr(opened, "state_dict") else opened
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise TypeError(f"the file holds a {type(state).__name__}, not a state dict")
    return {
        str(name): value.detach().cpu().contiguous().clone()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


if __name__ == "__main__":
    main(sys.argv[1])
