"""fct_fast: Forward Compatible Training as software.

Upgrade a gallery of stored embeddings to a new model's space without reading raw data again. Importing this package
needs numpy only; torch is loaded when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fct_fast import errors

if TYPE_CHECKING:
    from fct_fast import importers
    from fct_fast.bundle import load, save
    from fct_fast.evaluation import evaluate, overlap
    from fct_fast.gallery import backfill, plan_backfill
    from fct_fast.search import prepare_gallery, topk
    from fct_fast.spec import TransformSpec
    from fct_fast.training import fit
    from fct_fast.transform import ForwardTransform
    from fct_fast.upgrader import Upgrader

__version__ = "0.1.0"

# Public name -> the module that defines it. Loaded on first use (PEP 562): a backfill worker never imports torch.
_HOMES = {
    "ForwardTransform": "fct_fast.transform",
    "TransformSpec": "fct_fast.spec",
    "Upgrader": "fct_fast.upgrader",
    "backfill": "fct_fast.gallery",
    "evaluate": "fct_fast.evaluation",
    "fit": "fct_fast.training",
    "load": "fct_fast.bundle",
    "overlap": "fct_fast.evaluation",
    "plan_backfill": "fct_fast.gallery",
    "prepare_gallery": "fct_fast.search",
    "save": "fct_fast.bundle",
    "topk": "fct_fast.search",
}

__all__ = [
    "ForwardTransform",
    "TransformSpec",
    "Upgrader",
    "__version__",
    "backfill",
    "errors",
    "evaluate",
    "fit",
    "importers",
    "load",
    "overlap",
    "plan_backfill",
    "prepare_gallery",
    "save",
    "topk",
]


def __getattr__(name: str) -> Any:
    if name == "importers":
        return importlib.import_module("fct_fast.importers")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'fct_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
