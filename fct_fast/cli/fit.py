"""`fct-fast fit`: from paired arrays to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fct_fast.cli.options import Json, Limit, Overwrite, Threads
from fct_fast.cli.output import may_overwrite, print_facts, print_json, print_line, print_table
from fct_fast.cli.progress import Meter
from fct_fast.report.text import amount, percent, points

if TYPE_CHECKING:
    from fct_fast.cli.arrays import Array
    from fct_fast.study import Study
    from fct_fast.training import FitResult
    from fct_fast.training.config import FitConfig

__all__ = ["run"]

METHODS = (
    "fct",
    "residual",
    "ridge",
    "affine",
    "procrustes",
    "procrustes_centred",
    "procrustes_whitened",
    "low_rank",
)  # those of FitConfig; named here so that the help page loads nothing


def run(
    old: Annotated[Path, typer.Option(help="Old embeddings, .npy [n, old_dim] (or [views, n, old_dim]).")],
    new: Annotated[Path, typer.Option(help="New embeddings of the same rows, .npy [n, new_dim].")],
    out: Annotated[Path, typer.Option(help="The bundle to write, an .safetensors file.")],
    side: Annotated[Path | None, typer.Option(help="Side-information of the same rows, .npy [n, side_dim].")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels, .npy [n]; rows are then held out class by class.")
    ] = None,
    groups: Annotated[Path | None, typer.Option(help="Groups, .npy [n]; a group is held out whole.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML of all options of the fit; the ones below come before it.")
    ] = None,
    method: Annotated[str | None, typer.Option(help=f"{', '.join(METHODS)}. [default: fct]")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the rows. [default: 80]")] = None,
    inner_dim: Annotated[int | None, typer.Option(min=1, help="Width of the trunk. [default: 2048]")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Rows a step. [default: 1024]")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of Adam. [default: 0.0005]")] = None,
    held_out: Annotated[
        float | None, typer.Option(min=0, max=0.5, help="Share of the rows kept to measure h on. [default: 0.1]")
    ] = None,
    normalize: Annotated[
        bool | None, typer.Option("--normalize/--no-normalize", help="h gives unit rows. [default: yes]")
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(help="The new model's classifier, .npy [classes, new_dim], for a discriminative loss."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep the training's state here; the same command goes on from it.")
    ] = None,
    log_dir: Annotated[Path | None, typer.Option(help="Folder for TensorBoard.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Judge it: fit the simpler maps, too, and write a page of the table and the verdict (.html). "
            "The bundle then holds the best map, or with --method that one, as it was judged."
        ),
    ] = None,
    re_embed_flops: Annotated[int | None, typer.Option(min=0, help="FLOP of the new model, an item.")] = None,
    re_embed_bytes: Annotated[int | None, typer.Option(min=0, help="Bytes of raw data, an item.")] = None,
    old_space: Annotated[str, typer.Option(metavar="ID", help="Model id of the old embeddings.")] = "",
    side_space: Annotated[str, typer.Option(metavar="ID", help="Model id of the side-information.")] = "",
    new_space: Annotated[str, typer.Option(metavar="ID", help="Model id of the new embeddings.")] = "",
    limit: Limit = None,
    seed: Annotated[int | None, typer.Option(help="Of the split, the weights and the batches. [default: 0]")] = None,
    threads: Threads = None,
    yes: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fit h so that h(old, side) comes close to new, and write it as a bundle. With --report, also say whether the
    upgrade is worth it."""
    for path in (out, report):
        if path is not None:
            may_overwrite(path, yes=yes)
    from fct_fast.cli.arrays import read_labels
    from fct_fast.training.config import FitConfig

    arrays: dict[str, Any] = {name: _rows(path, limit) for name, path in (("old", old), ("new", new), ("side", side))}
    marks = {"labels": labels, "groups": groups}
    given: dict[str, Any] = {name: None if path is None else read_labels(path, limit) for name, path in marks.items()}
    chosen = {
        "method": method,
        "epochs": epochs,
        "inner_dim": inner_dim,
        "batch_size": batch_size,
        "lr": lr,
        "held_out": held_out,
        "normalize": normalize,
        "seed": seed,
    }
    options = _options(FitConfig, config, {name: value for name, value in chosen.items() if value is not None})
    if classifier is not None:
        given["classifier"] = _rows(classifier, None)
    given |= {"checkpoint": checkpoint, "log_dir": log_dir}
    _use_threads(threads)
    from fct_fast.bundle import save

    study = None
    if report is None:
        result = _fit(arrays, given, options)
    else:
        study = _study(arrays, given, options, re_embed_flops, re_embed_bytes)
        result = study.fit if method is None else study.fits["h"]
    bundle = save(result, out, old_space=old_space, side_space=side_space, new_space=new_space)
    document: dict[str, Any] = {"out": out, "digest": bundle.digest, "pairs": result.pairs, "metrics": result.metrics}
    if study is not None and report is not None:
        from fct_fast.fs import write_atomic
        from fct_fast.report.study import study_page

        write_atomic(report, study_page(study).encode())
        document |= {"report": report, "study": study.to_json()}
    if as_json:
        print_json(document)
        return
    metrics, shape = result.metrics, f"{bundle.spec.old_dim} + {bundle.spec.side_dim} -> {bundle.spec.new_dim} values"
    print_facts(
        [
            ("bundle", out),
            ("h" if study is None or method is not None else study.best, shape),
            ("rows", f"{amount(metrics['train_rows'])} to train on, {amount(metrics['held_out_rows'])} held out"),
            *(() if report is None else (("report", report),)),
        ]
    )
    if study is not None:
        _print_study(study)
    elif "held_out" in metrics:
        _print_held_out(options, metrics)


def _fit(arrays: dict[str, Any], given: dict[str, Any], options: FitConfig) -> FitResult:
    from fct_fast.training import fit

    with Meter("fit", options.epochs, unit="epochs") as meter:
        return fit(**arrays, **given, config=options, on_epoch=lambda epoch, _: meter.update(epoch + 1))


def _study(
    arrays: dict[str, Any], given: dict[str, Any], options: FitConfig, flops: int | None, read: int | None
) -> Study:
    from fct_fast.study import StudyConfig, run_study

    config = StudyConfig(fit=options, re_embed_flops=flops, re_embed_bytes=read)
    with Meter("study", 1, unit="stages") as meter:
        return run_study(
            **arrays, **given, config=config, on_stage=lambda what, done, total: meter.at(what, done, total)
        )


def _print_study(study: Study) -> None:
    columns = ("on rows that none of them saw", study.measure, "interval", "minus old", f"overlap@{study.config.k}")
    rows = study.rows.values()
    print_table(
        columns,
        (
            (
                f"{row.name} (best)" if row.name == study.best else row.name,
                percent(row.mean),
                f"{percent(row.interval.low)} to {percent(row.interval.high)}",
                points(study.against[row.name].mean) if row.name in study.against else "",
                percent(row.overlap),
            )
            for row in rows
        ),
    )
    print_line()
    for sentence in (study.verdict.sentence, *study.verdict.notes):
        print_line(sentence)


def _print_held_out(options: FitConfig, metrics: dict[str, Any]) -> None:
    names = {"held_out": options.method, "ridge": "ridge"}
    measured = [(label, metrics[name]) for name, label in names.items() if name in metrics]
    columns = ("on held-out rows", "cosine to the new embedding", "share of variance explained", "mean squared error")
    print_table(
        columns,
        (
            (label, f"{m['cosine']:.4f}", f"{m['r2']:.4f}" if "r2" in m else "-", f"{m['mse']:.3e}")
            for label, m in measured
        ),
    )


def _options(kind: type[FitConfig], path: Path | None, chosen: dict[str, Any]) -> FitConfig:
    """What the file says and then the command line; a training shorter than the usual warm-up warms up throughout."""
    if path is not None:
        return kind.from_yaml(path, **chosen)
    warmup = kind.model_fields["warmup_epochs"].default
    return kind(**chosen, warmup_epochs=min(warmup, float(chosen.get("epochs", warmup))))


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
