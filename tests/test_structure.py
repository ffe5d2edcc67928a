"""The house holds: imports point one way, only the right rooms do the risky things, both sides name the same errors."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fct_fast
from fct_fast import errors

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fct_fast"

# A room may import rooms of a lower number, and itself.
LAYERS = {
    "errors": 0,
    "config": 1,
    "spec": 1,
    "space": 1,
    "fs": 1,
    "tensorfile": 1,
    "kernels": 2,
    "bundle": 2,
    "upgrader": 3,
    "search": 3,
    "transform": 4,
    "bench": 5,
    "importers": 5,
    "models": 4,
    "data": 4,
    "side": 4,
    "evaluation": 4,
    "training": 5,
    "gallery": 5,
    "study": 6,
    "report": 5,
    "demo": 6,
    "experiment": 7,
    "cli": 8,
}
# Imports inside a function that point up or sideways, each for a reason.
DEFERRED = {
    ("bundle", "transform"),  # load() returns a torch module; reading a bundle must not import torch
    ("upgrader", "search"),  # Upgrader.search is the method form of search_upgraded
}
WITHOUT_TORCH = (
    "errors",
    "spec",
    "space",
    "fs",
    "bundle",
    "upgrader",
    "search",
    "gallery",
    "cli",
    "evaluation",
    "side",
)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
    ]


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, deferred) for every import that runs; imports for type checkers alone do not."""
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, deferred: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found.extend(
                (f"{module}.{alias.name}" if module == "fct_fast" else module, deferred) for alias in node.names
            )
        inside = deferred or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text()), False)
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    for module, deferred in imports(path):
        if not module.startswith("fct_fast."):
            continue
        other = module.split(".")[1]
        if other in (room, "__version__"):
            continue
        assert other in LAYERS, f"{path} imports {module}, which is in no layer"
        if deferred and (room, other) in DEFERRED:
            continue
        assert LAYERS[other] < LAYERS[room], f"{path}: {room} may not import {other}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_torch_is_imported_late_where_a_backfill_runs(path: Path) -> None:
    if room_of(path) in WITHOUT_TORCH:
        top = [module for module, deferred in imports(path) if not deferred and module.split(".")[0] == "torch"]
        assert not top, f"{path} imports torch at module level"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_cli_prints_or_exits_and_nobody_unpickles(path: Path) -> None:
    tree = ast.parse(path.read_text())
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if room_of(path) != "cli":
        assert not called & {"print", "sys.exit", "exit", "quit", "os._exit"}, path
        assert not called & {"torch.load", "torch.jit.load"}, path
    assert "pickle" not in {module for module, _ in imports(path)}, path


def test_only_kernels_imports_the_compiled_module() -> None:
    for path in sources():
        if room_of(path) != "kernels":
            assert "_native" not in path.read_text(), path


def test_importing_the_package_needs_numpy_only() -> None:
    code = "import sys, fct_fast; print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'sklearn', 'matplotlib', 'typer', 'rich'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist_and_have_docstrings() -> None:
    for name in fct_fast.__all__:
        value = getattr(fct_fast, name)
        if name != "__version__":
            assert (value.__doc__ or "").strip(), name


def test_errors_have_the_same_names_on_both_sides() -> None:
    header = (ROOT / "csrc/core/error.hpp").read_text()
    native = set(re.findall(r"struct (\w+) : Error", header)) - {"Interrupted"}
    mapped = set(
        re.findall(r"map_error<fct::(\w+)>\(errors, \"(\w+)\"\)", (ROOT / "csrc/bindings/module.cpp").read_text())
    )
    assert mapped == {(name, name) for name in native}
    assert native <= set(errors.__all__)


def test_every_error_is_an_fct_error() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.FctError)


def test_no_fast_math_anywhere() -> None:
    for path in [ROOT / "CMakeLists.txt", *ROOT.glob("csrc/**/*.?pp"), *ROOT.glob("tests/csrc/CMakeLists.txt")]:
        text = re.sub(r"(#|//).*", "", path.read_text())
        assert not re.search("fast-math|Ofast", text), path
