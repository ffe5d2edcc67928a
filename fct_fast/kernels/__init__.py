"""The compiled kernels. Nothing else in the package imports the compiled module.

`native()` gives it, or raises DeviceError with what to do. Torch operators live in `fct_fast.kernels.ops`, which is
imported only where torch tensors come in.
"""

from __future__ import annotations

import functools
import importlib
import os
import platform
from types import ModuleType
from typing import Any

from fct_fast.errors import DeviceError

__all__ = ["KERNEL_VERSION", "capabilities", "native", "resolve_level", "usable_threads"]

# Raised when a change of a kernel changes the bits of any result: a job that was begun with another version is not
# resumed.
KERNEL_VERSION = 1


@functools.cache
def native() -> ModuleType:
    """The compiled module. Raises DeviceError where it is missing or does not load."""
    try:
        return importlib.import_module("fct_fast.kernels._native")
    except ImportError as error:
        raise DeviceError(
            f"the compiled kernels of fct_fast do not load ({error}); reinstall fct-fast, or run `make build`"
        ) from error


def resolve_level(level: str | None = None) -> str:
    """The CPU level that runs: `level`, else FCT_FAST_CPU_LEVEL, else the best of this machine.

    Raises DeviceError for an unknown level or one that this machine cannot run.
    """
    name: str = native().resolve_level(level or "")
    return name


def usable_threads(threads: int | None) -> int:
    """`threads`, or the number of cores this process may use."""
    return int(threads if threads is not None else native().available_threads())


def capabilities() -> dict[str, Any]:
    """What runs here, for `fct-fast doctor`."""
    module = native()
    return {
        "kernel_version": KERNEL_VERSION,
        "machine": platform.machine(),
        "cpu_levels": list(module.usable_levels()),
        "cpu_level": resolve_level(),
        "forced_level": os.environ.get("FCT_FAST_CPU_LEVEL") or None,
        "threads": module.available_threads(),
        "compiler": module.compiler,
        "cuda": "not in this version: CUDA kernels are not built yet, everything runs on the CPU",
    }
