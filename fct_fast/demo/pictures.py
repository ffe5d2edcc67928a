"""The demo's picture rows: what a query finds in the old gallery and in the upgraded one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fct_fast.demo.result import Hit, PictureRow
from fct_fast.search import topk
from fct_fast.training.embed import EmbeddedViews

__all__ = ["picture_rows"]

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


def picture_rows(
    gallery: EmbeddedViews,
    searches: Mapping[str, tuple[F32, F32]],
    names: tuple[str, ...],
    old_classes: int,
    *,
    seed: int,
    count: int = 8,
    k: int = 5,
) -> tuple[PictureRow, ...]:
    """`count` queries drawn at random, each of another class, none picked for what it finds.

    searches: "old" and "upgraded" -> (queries, gallery), both [rows, dim]. Half of the queries are of classes that the
    old model was trained on.
    """
    chosen = _draw_queries(gallery.labels, old_classes, count, np.random.default_rng(seed))
    found = {name: _neighbours(chosen, queries, rows, k) for name, (queries, rows) in searches.items()}

    def hit(row: int, query: int) -> Hit:
        label = gallery.labels[row]
        return Hit(_grey(gallery, row), names[label], bool(label == gallery.labels[query]))

    return tuple(
        PictureRow(
            query=hit(query, query),
            seen=bool(gallery.labels[query] < old_classes),
            old=tuple(hit(row, query) for row in found["old"][i]),
            upgraded=tuple(hit(row, query) for row in found["upgraded"][i]),
        )
        for i, query in enumerate(chosen.tolist())
    )


def _draw_queries(labels: I64, old_classes: int, count: int, rng: np.random.Generator) -> I64:
    chosen: list[int] = []
    for seen, wanted in ((True, count // 2), (False, count - count // 2)):
        classes = rng.permutation(np.unique(labels[(labels < old_classes) == seen]))[:wanted]
        chosen += [int(rng.choice(np.flatnonzero(labels == c))) for c in classes]
    return np.array(chosen, np.int64)


def _neighbours(chosen: I64, queries: F32, rows: F32, k: int) -> list[list[int]]:
    """The k best gallery rows of each chosen query, itself left out."""
    depth = min(k + 1, len(rows))
    _, ids = topk(np.ascontiguousarray(queries[chosen]), rows, k=depth)
    return [[int(i) for i in found if i != own][:k] for found, own in zip(ids, chosen, strict=True)]


def _grey(gallery: EmbeddedViews, row: int) -> npt.NDArray[np.uint8]:
    """The view of a row as the models saw it; views run from about -0.7 to 0.9 with their noise."""
    assert gallery.images is not None
    grey: npt.NDArray[np.uint8] = np.clip((gallery.images[row, 0] + 0.7) * (255 / 1.6), 0, 255).astype(np.uint8)
    return grey
