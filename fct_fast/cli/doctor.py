"""`fct-fast doctor`: what this installation can do, and whether its kernels compute the right thing."""

from __future__ import annotations

import platform
from importlib import metadata, util
from typing import Any

import typer

from fct_fast import __version__
from fct_fast.cli.errors import ERROR, complain
from fct_fast.cli.options import Json
from fct_fast.cli.output import print_facts, print_json
from fct_fast.errors import FctError

__all__ = ["run"]

# Module -> distribution, and the verbs that need it. Looked for, never imported.
_PACKAGES = {
    "numpy": ("numpy", "everything"),
    "safetensors": ("safetensors", "writing bundles"),
    "torch": ("torch", "fit, import, demo"),
    "sklearn": ("scikit-learn", "demo --quick"),
    "pytorch_metric_learning": ("pytorch-metric-learning", "demo"),
    "matplotlib": ("matplotlib", "demo"),
    "jinja2": ("Jinja2", "reports"),
    "pyarrow": ("pyarrow", "Parquet and Arrow galleries, payload columns"),
    "faiss": ("faiss-cpu", "FAISS galleries: pip install 'fct-fast[faiss]'"),
    "lance": ("pylance", "Lance galleries: pip install 'fct-fast[lance]'"),
    "psycopg": ("psycopg", "PostgreSQL galleries: pip install 'fct-fast[postgres]'"),
}


def run(as_json: Json = False) -> None:
    """Check this installation: versions, processor levels, and the kernels against float64."""
    report: dict[str, Any] = {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(module, name) for module, (name, _) in _PACKAGES.items()},
        "kernels": None,
        "self_test": None,
        "usable": False,
        "problem": None,
    }
    try:
        from fct_fast.cli.selftest import self_test
        from fct_fast.kernels import capabilities

        report["kernels"] = capabilities()
        report["self_test"] = self_test(report["kernels"]["cpu_levels"])
        report["usable"] = True
    except FctError as error:
        report["problem"] = str(error)
    if as_json:
        print_json(report)
    else:
        print_facts(_facts(report))
    if report["problem"]:
        complain(report["problem"])
        raise typer.Exit(ERROR)


def _version(module: str, distribution: str) -> str | None:
    if util.find_spec(module) is None:
        return None
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown version"


def _facts(report: dict[str, Any]) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [
        ("fct-fast", report["version"]),
        ("python", f"{report['python']} on {report['platform']}"),
    ]
    for name, use in _PACKAGES.values():
        facts.append((name, report["packages"][name] or f"not installed (needed by: {use})"))
    kernels = report["kernels"]
    if kernels:
        forced = f", forced by FCT_FAST_CPU_LEVEL={kernels['forced_level']}" if kernels["forced_level"] else ""
        facts += [
            ("kernels", f"version {kernels['kernel_version']}, built by {kernels['compiler']}"),
            ("processor", f"{kernels['machine']}, levels {', '.join(kernels['cpu_levels'])}"),
            ("level in use", f"{kernels['cpu_level']}{forced}"),
            (
                "kernels in use",
                ", ".join(f"{p} {name or 'none'}" for p, name in kernels["kernels_by_precision"].items()),
            ),
            ("threads", kernels["threads"]),
            ("cuda", kernels["cuda"]),
            ("vnni", kernels["vnni"]),
            ("amx", kernels["amx"]),
        ]
    test = report["self_test"]
    if test:
        for precision, errors in test["error"].items():
            told = ", ".join(f"{level} {error:.1e}" for level, error in errors.items())
            allowed = f"relative error {told} (allowed {test['allowed'][precision]:.0e})"
            facts.append((f"self-test {precision}", allowed if errors else "not on this machine"))
        facts.append(("self-test search", test["search"]))
    facts.append(("result", "usable" if report["usable"] else "NOT usable"))
    return facts
