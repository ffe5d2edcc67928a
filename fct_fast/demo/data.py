"""The demo's images: what each model sees, and the gallery."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fct_fast.data.digits import digit_items
from fct_fast.data.glyph_cache import cached_bank
from fct_fast.data.glyphs import TYPEFACES, draw_classes
from fct_fast.data.views import AffineViews
from fct_fast.demo.recipe import Recipe

__all__ = ["DemoData", "load_data"]

EvalSplit = Literal["validation", "test"]


@dataclass(frozen=True)
class DemoData:
    """old_train: items of the classes that the old model knows, 0 .. old_classes - 1; train: items of all classes;
    gallery: other items of all classes. names: what a class is called. source: where the gallery's items are from.
    """

    old_train: AffineViews
    train: AffineViews
    gallery: AffineViews
    names: tuple[str, ...]
    source: str


def load_data(recipe: Recipe, *, seed: int, split: EvalSplit, cache_dir: Path | None) -> DemoData:
    """The seed draws the classes and which of them the old model knows.

    Glyphs: training typefaces, and those of `split` in the gallery. Digits: training scans, and held-out scans in the
    gallery, whatever `split` is.
    """
    rng = np.random.default_rng(seed)
    if recipe.dataset == "glyphs":
        bank = cached_bank(cache_dir)
        classes = draw_classes(bank, recipe.classes, rng)
        train, labels, _ = bank.items("train", classes)
        gallery, gallery_labels, _ = bank.items(split, classes)
        names = tuple(bank.characters[c] for c in classes)
        source = ", ".join(TYPEFACES[split])
    else:
        digits = rng.permutation(recipe.classes)
        train, labels = _relabelled(digits, held_out=False)
        gallery, gallery_labels = _relabelled(digits, held_out=True)
        names = tuple(str(d) for d in digits)
        source = "held-out scans"
    known = labels < recipe.old_classes
    return DemoData(
        AffineViews(train[known], labels[known], recipe.views),
        AffineViews(train, labels, recipe.views),
        AffineViews(gallery, gallery_labels, recipe.views),
        names,
        source,
    )


def _relabelled(
    digits: npt.NDArray[np.int64], *, held_out: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Scans whose label is the digit's place in `digits`."""
    pictures, labels = digit_items(held_out=held_out)
    return pictures, np.argsort(digits)[labels]
