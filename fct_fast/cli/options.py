"""Options that several verbs share, so that they read and behave the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

__all__ = [
    "Bundle",
    "Device",
    "Json",
    "Limit",
    "Metric",
    "MetricName",
    "Overwrite",
    "Precision",
    "Seed",
    "Threads",
    "counts",
]

MetricName: TypeAlias = Literal["cosine", "ip", "l2"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Use at most this many threads; by default all cores.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Take only the first N rows.", metavar="N")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Bundle = Annotated[Path, typer.Option("--bundle", help="The transformation: an h.safetensors file.")]
Metric = Annotated[MetricName, typer.Option(help="Cosine, inner product, or squared L2 distance.")]
Precision = Annotated[
    Literal["fp32", "fp16", "bf16", "int8"],
    typer.Option(
        help="fp32; fp16 on a GPU; bf16 on a GPU or a processor with AVX-512 BF16: faster, error 1e-2; int8 where the "
        "bundle has scales, as those of `fit` do: faster, error 3e-2."
    ),
]
Device = Annotated[
    str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N; auto is the CPU as long as CUDA is off.")
]
Overwrite = Annotated[bool, typer.Option("--yes", "-y", help="Overwrite what is there without asking.")]


def counts(text: str) -> tuple[int, ...]:
    """ "1,5" -> (1, 5); the parser of an option. Raises typer.BadParameter."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"{text!r} is not a list of numbers from 1 up, like 1,5")
    return numbers
