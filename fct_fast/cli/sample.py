"""`fct-fast sample`: which rows of a gallery to re-embed for fitting, and how many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fct_fast.cli.options import Json, Overwrite, Seed
from fct_fast.cli.output import may_overwrite, print_json, print_line

__all__ = ["run"]


def run(
    old: Annotated[Path, typer.Option(help="The gallery's old embeddings, .npy [n, old_dim], or a folder of them.")],
    out: Annotated[Path, typer.Option(help="Where the row numbers go, .npy int64, rising.")],
    side: Annotated[Path | None, typer.Option(help="Its side-information, .npy [n, side_dim].")] = None,
    ids_out: Annotated[
        Path | None, typer.Option(help="Where the ids of these rows go, .npy, if the gallery has a .ids.npy.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="How many; by default what a fit needs.")] = None,
    seed: Seed = 0,
    yes: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Say which rows to run the new model on, so that h can be fitted: spread over the gallery as its rows are."""
    for path in (out, ids_out):
        if path is not None:
            may_overwrite(path, yes=yes)
    from fct_fast.cli.arrays import read_ids, read_rows, write_array
    from fct_fast.errors import ConfigError
    from fct_fast.study.sample import sample_rows

    gallery = read_rows(old)
    ids = None if ids_out is None else read_ids(old, len(gallery))
    if ids_out is not None and ids is None:
        raise ConfigError(f"{old} has no .ids.npy; leave --ids-out away, its rows go by number")
    sample = sample_rows(gallery, None if side is None else read_rows(side), count=count, seed=seed)
    write_array(out, sample.rows)
    if ids is not None and ids_out is not None:
        write_array(ids_out, ids[sample.rows])
    if as_json:
        print_json({"out": out, "rows": len(sample.rows), "clusters": sample.clusters, "why": sample.why})
        return
    print_line(f"{out}: {sample.why}.")
    print_line("Run the new model on these rows, then: fct-fast fit --old OLD[rows] --side SIDE[rows] --new NEW ...")
