"""The files of a FAISS sink, and which of them hold what at which moment.

    new.faiss.rows.partial-TOKEN    the rows, while another index than a Flat one is to be built from them
    new.faiss.again.partial-TOKEN   the same, while a built index that was damaged is built again
    new.faiss.partial-TOKEN         the finished index; of a Flat one, also while rows are written
    new.faiss.sha256                of what was built: its digest, since the rows alone do not vouch for a graph
    new.faiss.ids.npy               where the lists of an IVF keep ids that did not rise: the ids in the order of rows
    new.space.json, new.faiss       the fingerprint, and last the gallery

At each moment one file holds all that was committed, and the names that are there tell which: the rows where they are,
else the unfinished index, else the finished one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fct_fast.gallery.stores.npy_column import space_path

__all__ = ["Names", "beside_space"]


def beside_space(index: Path) -> Path:
    """What `npy.read_space` takes, so that the fingerprint of `x.faiss` is `x.space.json`."""
    return index.with_suffix(".npy")


@dataclass(frozen=True)
class Names:
    """index: the final place; token: of the job. flat: the index is written as such, and nothing built."""

    index: Path
    token: str
    flat: bool

    @property
    def rows(self) -> Path:
        return self.partial(self._beside(".rows"))

    @property
    def again(self) -> Path:
        return self.partial(self._beside(".again"))

    @property
    def digest(self) -> Path:
        return self._beside(".sha256")

    @property
    def order(self) -> Path:
        return self._beside(".ids.npy")

    @property
    def space(self) -> Path:
        return space_path(beside_space(self.index))

    @property
    def finals(self) -> list[Path]:
        """What appears at the end, the gallery itself last."""
        return [*([] if self.flat else [self.digest, self.order]), self.space, self.index]

    @property
    def published(self) -> bool:
        return self.index.exists() and not self.partial(self.index).exists() and not self.rows.exists()

    def partial(self, final: Path) -> Path:
        return final.with_name(f"{final.name}.partial-{self.token}")

    def current(self, final: Path) -> Path:
        """A file of `finals` where it is at this moment."""
        partial = self.partial(final)
        return partial if partial.exists() or not final.exists() else final

    def holder(self) -> tuple[Path, bool]:
        """The file that holds what was committed, and whether it is the Flat one that rows are written to."""
        if self.flat:
            return self.current(self.index), True
        if self.rows.exists() or not (self.partial(self.index).exists() or self.index.exists()):
            return self.rows, True
        return self.current(self.index), False

    def leftovers(self) -> list[Path]:
        """What a process that was killed leaves and nobody needs: temporary files, a second building, and notes on an
        index that is at its place."""
        targets = [self.rows, self.again, *map(self.partial, self.finals)]
        started = tuple(f".{path.name}." for path in targets)
        found = [path for path in self.index.parent.iterdir() if path.name.startswith(started)]
        notes = map(self.partial, self.finals[:-1]) if self.published else ()
        return [path for path in found if path.name.endswith(".tmp")] + [self.again, *notes]

    def _beside(self, ending: str) -> Path:
        return self.index.with_name(self.index.name + ending)
