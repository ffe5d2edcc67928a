"""Checkpoints of a training: one safetensors file, written whole or not at all, that a run goes on from bit for bit."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fct_fast.errors import ConfigError, CorruptError
from fct_fast.fs import write_atomic

__all__ = ["Checkpoint", "digest_of"]

_KEY, _DIGEST = "fct_fast.checkpoint", "sha256"


class Checkpoint:
    """A file that a training's state is kept in.

    path: of the file; its folder is made. key: what the training depends on (options, rows, threads, torch); a file of
    another key is refused. every: seconds between two writes, 0 to write after each step.
    """

    def __init__(self, path: Path, key: Mapping[str, Any], every: float) -> None:
        self._path, self._key, self._every = path, dict(key), every
        self._last = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last >= self._every

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep `tensors` and `facts` (plain JSON values) in the place of what was kept before. Raises StoreError."""
        from safetensors.torch import save

        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        note = json.dumps({"key": self._key, "facts": dict(facts)})
        write_atomic(self._path, save(plain, {_KEY: note, _DIGEST: digest_of(plain, note)}))
        self._last = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was kept last, None where there is nothing yet. Raises CorruptError for a damaged file, ConfigError for
        one of another training."""
        from safetensors import SafetensorError, safe_open

        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            if metadata[_DIGEST] != digest_of(tensors, metadata[_KEY]):
                raise ValueError("its digest is another")
            note = json.loads(metadata[_KEY])
            key, facts = note["key"], note["facts"]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CorruptError(
                f"{self._path} is damaged or no checkpoint ({error}); remove it to train from the start"
            ) from error
        for name, now in self._key.items():
            if (was := key.get(name)) != now:
                raise ConfigError(
                    f"{self._path} is of a training with another {name} ({was!r:.40}, now {now!r:.40}); use "
                    f"that one, or remove the file to train from the start"
                )
        return tensors, facts


def digest_of(tensors: Mapping[str, Tensor], note: str = "") -> str:
    """SHA-256 (hex) over a note, and names, dtypes, shapes and values."""
    sha = hashlib.sha256(note.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
