"""The compiled kernels. Nothing else in the package imports the compiled module.

`native()` gives it, or raises DeviceError with what to do. Torch operators live in `fct_fast.kernels.ops`, which is
imported only where torch tensors come in.
"""

from __future__ import annotations

import functools
import importlib
import operator
import os
import platform
from types import ModuleType
from typing import Any

from fct_fast.errors import ConfigError, DeviceError

__all__ = [
    "AMX_SWITCH",
    "KERNEL_VERSION",
    "MAX_THREADS",
    "VNNI_SWITCH",
    "capabilities",
    "native",
    "resolve_level",
    "usable_threads",
]

# Raised when a change of a kernel changes the bits of any result: a job that was begun with another version is not
# resumed.
KERNEL_VERSION = 1

MAX_THREADS = 1024

# int8 by AVX-512 VNNI is off unless this is 1 (csrc/core/dispatch.cpp). Its bits are those of every other level.
VNNI_SWITCH = "FCT_FAST_VNNI_UNVERIFIED"

# Level amx is not usable unless this is 1. Its bits in bf16 are its own, so a job's ledger tells it from avx512.
AMX_SWITCH = "FCT_FAST_AMX_UNVERIFIED"


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
    if level is not None and not isinstance(level, str):
        raise ConfigError(f"level is {level!r}; use a name such as 'avx2'")
    name: str = native().resolve_level(level or "")
    return name


def usable_threads(threads: int | None) -> int:
    """`threads`, or the number of cores this process may use. Raises ConfigError outside 1 .. MAX_THREADS."""
    if threads is None:
        return int(native().available_threads())
    if (
        isinstance(threads, bool)
        or not hasattr(threads, "__index__")
        or not 1 <= operator.index(threads) <= MAX_THREADS
    ):
        raise ConfigError(f"threads is {threads!r}; use a whole number from 1 to {MAX_THREADS}, or None for all cores")
    return operator.index(threads)


def capabilities() -> dict[str, Any]:
    """What runs here, for `fct-fast doctor`."""
    from fct_fast.kernels.cuda import cuda_text

    module = native()
    return {
        "kernel_version": KERNEL_VERSION,
        "machine": platform.machine(),
        "cpu_levels": list(module.usable_levels()),
        "cpu_level": resolve_level(),
        "kernels_by_precision": dict(module.kernel_names(resolve_level())),
        "forced_level": os.environ.get("FCT_FAST_CPU_LEVEL") or None,
        "threads": module.available_threads(),
        "compiler": module.compiler,
        "cuda": cuda_text(),
        "vnni": _vnni_text(),
        "amx": _amx_text(),
    }


def _vnni_text() -> str:
    """The state of the AVX-512 VNNI kernels of int8 in one sentence."""
    if not native().has_vnni():
        return "not on this machine; int8 runs by the kernels of the level in use"
    if os.environ.get(VNNI_SWITCH) == "1":
        return "turned on for int8 at level avx512, though not verified on such a processor yet"
    return f"there, but no int8 kernel was verified on such a processor yet, so it is off; {VNNI_SWITCH}=1 turns it on"


def _amx_text() -> str:
    """The state of the AMX kernels of bf16 and int8 in one sentence."""
    if not native().has_amx():
        return "not on this machine"
    if "amx" in native().usable_levels():
        return "turned on as level amx for bf16 and int8, though not verified on such a processor yet"
    if os.environ.get(AMX_SWITCH) == "1":
        return "there, but the operating system does not permit it to this process"
    return f"there, but no kernel was verified on such a processor yet, so it is off; {AMX_SWITCH}=1 turns it on"
