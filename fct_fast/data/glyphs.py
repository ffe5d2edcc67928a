"""Glyphs: characters of the fonts that ship inside matplotlib, as an image data set that needs no download.

A class is a character, an item is a character in one typeface. Typefaces are split by family, so that what is
evaluated was never trained on: DejaVu Sans and Sans Mono train, DejaVu Serif validates, STIX tests. Pillow (FreeType)
draws each item once; random views are drawn from that picture (`fct_fast.data.views`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from fct_fast.errors import ConfigError

__all__ = ["CANVAS", "TYPEFACES", "GlyphBank", "Split", "draw_classes", "render_bank"]

Split = Literal["train", "validation", "test"]

TYPEFACES: dict[Split, tuple[str, ...]] = {
    "train": (
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSans-Oblique",
        "DejaVuSans-BoldOblique",
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "DejaVuSansMono-Oblique",
        "DejaVuSansMono-BoldOblique",
    ),
    "validation": ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    "test": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
}

CANVAS = 48  # pixels; room for the tallest accent, the deepest descender and the widest letter of every typeface
_EM = 32  # pixels of the font size
_BASELINE = 34  # pixels from the top


@dataclass(frozen=True)
class GlyphBank:
    """Every usable character in every typeface, drawn once.

    characters: one a class; no two of them look the same in any typeface. typefaces: file stems, in the order of
    TYPEFACES. pictures: uint8 [typefaces, characters, CANVAS, CANVAS], ink is 255.
    """

    characters: tuple[str, ...]
    typefaces: tuple[str, ...]
    pictures: npt.NDArray[np.uint8]

    def items(
        self, split: Split, classes: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Items of a split: pictures uint8 [n, CANVAS, CANVAS], labels int64 [n], typeface index int64 [n].

        classes: indices into `characters`; the label of an item is its place in `classes`.
        """
        faces = np.array([self.typefaces.index(name) for name in TYPEFACES[split]], np.int64)
        pictures = self.pictures[faces[:, None], classes[None, :]].reshape(-1, CANVAS, CANVAS)
        labels = np.tile(np.arange(len(classes), dtype=np.int64), len(faces))
        return pictures, labels, np.repeat(faces, len(classes))


def draw_classes(bank: GlyphBank, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """`count` different classes in random order, int64 [count]. Raises ConfigError where the bank has fewer."""
    if not 0 < count <= len(bank.characters):
        raise ConfigError(f"the fonts give {len(bank.characters)} classes, {count} were asked for; ask for fewer")
    return rng.permutation(len(bank.characters))[:count].astype(np.int64)


def render_bank(font_dir: Path | None = None) -> GlyphBank:
    """Draw every letter and digit that all typefaces have, in every typeface.

    Characters whose pictures are identical in at least one typeface (Latin A, Greek Alpha and Cyrillic A, say) are
    one class, and the one with the lowest code point stands for it. font_dir: where the .ttf files lie; matplotlib's
    own by default. Raises ConfigError where a font file is missing.
    """
    directory = font_dir or Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    typefaces = tuple(name for names in TYPEFACES.values() for name in names)
    paths = [directory / f"{name}.ttf" for name in typefaces]
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"the font {path} is missing; reinstall matplotlib, whose wheel brings it")
    common = set.intersection(*(set(FT2Font(str(path)).get_charmap()) for path in paths))
    characters = [chr(code) for code in sorted(common) if chr(code).isalnum()]
    pictures = np.stack([_draw_all(path, characters) for path in paths])
    keep = _distinct(pictures)
    return GlyphBank(tuple(characters[i] for i in keep), typefaces, np.ascontiguousarray(pictures[:, keep]))


def _draw_all(path: Path, characters: list[str]) -> npt.NDArray[np.uint8]:
    """uint8 [characters, CANVAS, CANVAS]: the ink centred across, on a common baseline."""
    font = ImageFont.truetype(str(path), _EM, layout_engine=ImageFont.Layout.BASIC)
    out = np.zeros((len(characters), CANVAS, CANVAS), np.uint8)
    for i, character in enumerate(characters):
        left, _, right, _ = font.getbbox(character, anchor="ls")
        image = Image.new("L", (CANVAS, CANVAS))
        origin = (round((CANVAS - (right - left)) / 2 - left), _BASELINE)
        ImageDraw.Draw(image).text(origin, character, fill=255, font=font, anchor="ls")
        out[i] = np.asarray(image)
    return out


def _distinct(pictures: npt.NDArray[np.uint8]) -> list[int]:
    """First character of each group that shares a picture in some typeface; groups join transitively."""
    group = list(range(pictures.shape[1]))

    def root(i: int) -> int:
        while group[i] != i:
            group[i] = group[group[i]]
            i = group[i]
        return i

    for face in pictures:
        seen: dict[bytes, int] = {}
        for i, picture in enumerate(face):
            first = root(seen.setdefault(picture.tobytes(), i))
            other = root(i)
            group[max(first, other)] = min(first, other)
    return [i for i in range(len(group)) if root(i) == i]
