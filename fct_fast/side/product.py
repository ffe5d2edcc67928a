"""Product quantisation (Jegou, Douze, Schmid, TPAMI 2011): one byte for each group of dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from fct_fast.errors import ConfigError
from fct_fast.side.arrays import F32, F64, Codes, parameter

__all__ = ["Product"]

_CENTROIDS = 256


@dataclass(frozen=True, eq=False)
class Product:
    """The nearest of at most 256 centroids in each of m groups of neighbouring dimensions. Codes: uint8 [n, m].

    codebooks: m arrays float32 [centroids, dimensions of the group]; all have the same number of centroids, and
    groups differ in width by one dimension at most. Ties go to the lower centroid.
    """

    kind: ClassVar[str] = "pq"
    dtype: ClassVar[type[np.generic]] = np.uint8
    codebooks: tuple[F32, ...]

    def __post_init__(self) -> None:
        books = self.codebooks
        if not books or any(book.ndim != 2 or book.shape[0] != books[0].shape[0] for book in books):
            raise ConfigError("product quantisation needs codebooks [centroids, dim] with the same number of centroids")
        if not 1 <= len(books[0]) <= _CENTROIDS:
            raise ConfigError(f"a codebook has 1 to {_CENTROIDS} centroids, got {len(books[0])}")
        if [book.shape[1] for book in books] != np.diff(_edges(self.dim, len(books))).tolist():
            raise ConfigError(f"{len(books)} codebooks must share {self.dim} dimensions evenly")
        object.__setattr__(self, "codebooks", tuple(parameter("codebook", book, book.shape) for book in books))

    @property
    def dim(self) -> int:
        return sum(book.shape[1] for book in self.codebooks)

    @property
    def bytes_per_item(self) -> int:
        return len(self.codebooks)

    @classmethod
    def fit(cls, rows: F64, groups: int, seed: int) -> Product:
        """k-means in each group of dimensions of rows [n >= 1, dim].

        The same rows and seed give the same codebooks. Raises ConfigError for groups outside 1 .. dim.
        """
        from sklearn.cluster import MiniBatchKMeans  # a second to import, for fitting only

        if not 1 <= groups <= rows.shape[1]:
            raise ConfigError(f"product quantisation of {rows.shape[1]} dimensions has 1 to {rows.shape[1]} groups")
        books = []
        for group, (begin, end) in enumerate(pairwise(_edges(rows.shape[1], groups))):
            part = np.ascontiguousarray(rows[:, begin:end])
            centre = part.mean(axis=0)  # k-means subtracts squares: near zero they keep their digits
            # Fewer distinct rows than centroids would leave centroids that no row is near, and a warning.
            centroids = min(_CENTROIDS, len(np.unique(part.astype(np.float32), axis=0)))
            state = int(np.random.SeedSequence([seed, group]).generate_state(1)[0])
            means = MiniBatchKMeans(centroids, batch_size=4096, n_init=1, random_state=state).fit(part - centre)
            books.append((means.cluster_centers_ + centre).astype(np.float32))
        return cls(_padded(books))

    def encode(self, rows: F64) -> Codes:
        codes = np.empty((len(rows), len(self.codebooks)), np.uint8)
        edges = pairwise(_edges(self.dim, len(self.codebooks)))
        for group, (book, (begin, end)) in enumerate(zip(self.codebooks, edges, strict=True)):
            centroids = book.astype(np.float64)
            half_norms = np.square(centroids).sum(axis=1) / 2
            # |x - c|^2 / 2 without |x|^2 / 2, which is the same for all centroids c
            codes[:, group] = (half_norms - rows[:, begin:end] @ centroids.T).argmin(axis=1)
        return codes

    def decode(self, codes: Codes) -> F32:
        if codes.size and int(codes.max()) >= len(self.codebooks[0]):
            row = int((codes >= len(self.codebooks[0])).any(axis=1).argmax())
            raise ConfigError(
                f"row {row} of the codes names centroid {int(codes[row].max())} of {len(self.codebooks[0])}; "
                f"the codes are of another codec, or damaged"
            )
        return np.concatenate([book[codes[:, group]] for group, book in enumerate(self.codebooks)], axis=1)

    def tensors(self) -> dict[str, F32]:
        return {f"codebook.{group}": book for group, book in enumerate(self.codebooks)}


def _edges(dim: int, groups: int) -> list[int]:
    """Where the groups begin and end: [groups + 1]; the first dim % groups of them are one dimension wider."""
    width, wider = divmod(dim, groups)
    return [group * width + min(group, wider) for group in range(groups + 1)]


def _padded(books: list[F32]) -> tuple[F32, ...]:
    """Codebooks of one height; the missing centroids repeat the last one, which wins the tie."""
    height = max(map(len, books))
    return tuple(np.concatenate([book, np.repeat(book[-1:], height - len(book), axis=0)]) for book in books)
