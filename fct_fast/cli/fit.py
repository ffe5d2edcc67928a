"""`fct-fast fit`: from paired arrays to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fct_fast.cli.options import Json, Limit, Overwrite, Seed, Threads
from fct_fast.cli.output import may_overwrite, print_facts, print_json, print_table
from fct_fast.cli.progress import Meter
from fct_fast.report.text import amount

if TYPE_CHECKING:
    from fct_fast.cli.arrays import Array

__all__ = ["run"]


def run(
    old: Annotated[Path, typer.Option(help="Old embeddings, .npy [n, old_dim] (or [views, n, old_dim]).")],
    new: Annotated[Path, typer.Option(help="New embeddings of the same rows, .npy [n, new_dim].")],
    out: Annotated[Path, typer.Option(help="The bundle to write, an .safetensors file.")],
    side: Annotated[Path | None, typer.Option(help="Side-information of the same rows, .npy [n, side_dim].")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels, .npy [n]; rows are then held out class by class.")
    ] = None,
    groups: Annotated[Path | None, typer.Option(help="Groups, .npy [n]; a group is held out whole.")] = None,
    method: Annotated[Literal["fct", "ridge"], typer.Option(help="The paper's network, or a linear map.")] = "fct",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the rows.")] = 80,
    inner_dim: Annotated[int, typer.Option(min=1, help="Width of the network's trunk.")] = 2048,
    batch_size: Annotated[int, typer.Option(min=2, help="Rows a step.")] = 1024,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 5e-4,
    held_out: Annotated[float, typer.Option(min=0, max=0.5, help="Share of the rows kept to measure h on.")] = 0.1,
    normalize: Annotated[bool, typer.Option("--normalize/--no-normalize", help="h gives unit rows.")] = True,
    old_space: Annotated[str, typer.Option(metavar="ID", help="Model id of the old embeddings.")] = "",
    side_space: Annotated[str, typer.Option(metavar="ID", help="Model id of the side-information.")] = "",
    new_space: Annotated[str, typer.Option(metavar="ID", help="Model id of the new embeddings.")] = "",
    limit: Limit = None,
    seed: Seed = 0,
    threads: Threads = None,
    yes: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fit h so that h(old, side) comes close to new, and write it as a bundle."""
    may_overwrite(out, yes=yes)
    from fct_fast.cli.arrays import read_labels
    from fct_fast.training.config import FitConfig

    arrays = {name: _rows(path, limit) for name, path in (("old", old), ("new", new), ("side", side))}
    marks = {"labels": labels, "groups": groups}
    given = {name: None if path is None else read_labels(path, limit) for name, path in marks.items()}
    config = FitConfig(
        method=method,
        inner_dim=inner_dim,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        warmup_epochs=min(FitConfig.warmup_epochs, epochs),
        normalize=normalize,
        held_out=held_out,
        seed=seed,
    )
    from fct_fast.bundle import save
    from fct_fast.training import fit

    _use_threads(threads)
    with Meter("fit", epochs, unit="epochs") as meter:
        result = fit(**arrays, **given, config=config, on_epoch=lambda epoch, _: meter.update(epoch + 1))  # type: ignore[arg-type]
    bundle = save(result, out, old_space=old_space, side_space=side_space, new_space=new_space)
    document: dict[str, Any] = {"out": out, "digest": bundle.digest, "pairs": result.pairs, "metrics": result.metrics}
    if as_json:
        print_json(document)
        return
    metrics = result.metrics
    print_facts(
        [
            ("bundle", out),
            ("h", f"{bundle.spec.old_dim} + {bundle.spec.side_dim} -> {bundle.spec.new_dim} values"),
            ("rows", f"{amount(metrics['train_rows'])} to train on, {amount(metrics['held_out_rows'])} held out"),
        ]
    )
    if "held_out" in metrics:
        names = {"held_out": "h", "ridge": "linear map"} if method == "fct" else {"held_out": "linear map"}
        measured = [(label, metrics[name]) for name, label in names.items() if name in metrics]
        columns = (
            "on held-out rows",
            "cosine to the new embedding",
            "share of variance explained",
            "mean squared error",
        )
        print_table(
            columns,
            (
                (label, f"{m['cosine']:.4f}", f"{m['r2']:.4f}" if "r2" in m else "-", f"{m['mse']:.3e}")
                for label, m in measured
            ),
        )


def _rows(path: Path | None, limit: int | None) -> Array | None:
    """[n, dim] or [views, n, dim], in memory; `fit` checks the rest."""
    import numpy as np

    from fct_fast.cli.arrays import read_array

    if path is None:
        return None
    array = read_array(path)
    return np.array(array[..., :limit, :] if array.ndim > 1 else array)


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
