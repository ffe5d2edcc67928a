"""`fct-fast import`: a checkpoint of apple/ml-fct becomes a bundle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fct_fast.cli.options import Json, Overwrite
from fct_fast.cli.output import may_overwrite, print_facts, print_json
from fct_fast.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

    from fct_fast.space import SpaceFingerprint

__all__ = ["run"]

_UNPICKLE = Path(__file__).with_name("unpickle.py")


def run(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="A state dict as .safetensors; with --allow-pickle also TorchScript and torch.save files."),
    ],
    out: Annotated[Path, typer.Option(help="The bundle to write, an .safetensors file.")],
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Open a pickle file, in a process of its own. It can run any code as you: trust its origin.",
        ),
    ] = False,
    normalize: Annotated[bool, typer.Option("--normalize/--no-normalize", help="h gives unit rows.")] = True,
    side_is_old: Annotated[
        bool, typer.Option("--side-is-old", help="It was trained without side-information: both branches read old.")
    ] = False,
    old: Annotated[
        Path | None, typer.Option(help="Old rows, .npy; their statistics let a backfill refuse rows of another space.")
    ] = None,
    side: Annotated[Path | None, typer.Option(help="The same of side-information.")] = None,
    new: Annotated[Path | None, typer.Option(help="The same of new embeddings.")] = None,
    old_space: Annotated[str, typer.Option(metavar="ID", help="Model id of --old.")] = "",
    side_space: Annotated[str, typer.Option(metavar="ID", help="Model id of --side.")] = "",
    new_space: Annotated[str, typer.Option(metavar="ID", help="Model id of --new.")] = "",
    yes: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a bundle of an h that was trained with apple/ml-fct."""
    may_overwrite(out, yes=yes)
    from fct_fast.bundle import save
    from fct_fast.importers import from_ml_fct

    h = from_ml_fct(_state_dict(checkpoint, allow_pickle), normalize=normalize, side_is_old=side_is_old)
    dims = {"old": h.old_dim, "side": h.side_dim, "new": h.new_dim}
    rows = {"old": old, "side": side, "new": new}
    spaces = {name: _measured(name, path, dims[name]) for name, path in rows.items() if path is not None}
    bundle = save(h, out, spaces=spaces, old_space=old_space, side_space=side_space, new_space=new_space)
    if as_json:
        print_json({"out": out, "digest": bundle.digest, **{f"{name}_dim": dim for name, dim in dims.items()}})
        return
    measured = ", ".join(spaces) or "none; a backfill cannot tell rows of another space or scale"
    print_facts(
        [
            ("bundle", out),
            ("h", f"{h.old_dim} + {h.side_dim} -> {h.new_dim} values"),
            ("spaces measured", measured),
        ]
    )


def _state_dict(path: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """The tensors of a checkpoint. Raises BundleError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from fct_fast.tensorfile import open_regular

    with open_regular(path) as stream:
        pickled = stream.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
        stream.seek(0)
        data = b"" if pickled else stream.read()
    if pickled and not allow_pickle:
        raise BundleError(
            f"{path} is a pickle or TorchScript file, and opening one can run any code as you; "
            f"if you trust its origin, pass --allow-pickle"
        )
    if pickled:
        data = _converted(path)
    try:
        return load(data)  # type: ignore[no-any-return]
    except (SafetensorError, ValueError) as error:
        raise BundleError(
            f"{path} is no safetensors file that can be read ({error}); give a checkpoint of ml-fct"
        ) from error


def _converted(path: Path) -> bytes:
    """The safetensors bytes of a pickle's tensors, made by a process that does nothing else. Raises BundleError."""
    command = [sys.executable, "-I", str(_UNPICKLE), str(path.absolute())]
    done = subprocess.run(command, capture_output=True, check=False, cwd="/")
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise BundleError(f"{path} cannot be converted: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout


def _measured(name: str, path: Path, dim: int) -> SpaceFingerprint:
    from fct_fast.cli.arrays import read_rows
    from fct_fast.errors import ShapeError
    from fct_fast.space import SpaceFingerprint

    rows: Any = read_rows(path)
    if rows.shape[1] != dim:
        raise ShapeError(f"{path} has rows of {rows.shape[1]} values, but this h has {name} rows of {dim}")
    return SpaceFingerprint.measure(rows)
