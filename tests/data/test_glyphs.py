"""Glyphs: typefaces never cross splits, classes are told apart in every typeface, and nothing is cut off."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from fct_fast.data.glyphs import CANVAS, TYPEFACES, GlyphBank, draw_classes, render_bank
from fct_fast.errors import ConfigError


@pytest.fixture(scope="module")
def bank() -> GlyphBank:
    return render_bank()


def test_families_do_not_cross_splits() -> None:
    for a, b in combinations(TYPEFACES.values(), 2):
        assert not set(a) & set(b)
    assert all(name.startswith("DejaVuSans") for name in TYPEFACES["train"])
    assert all(name.startswith("DejaVuSerif") for name in TYPEFACES["validation"])
    assert all(name.startswith("STIX") for name in TYPEFACES["test"])


def test_every_class_is_drawn_whole_in_every_typeface(bank: GlyphBank) -> None:
    assert bank.pictures.shape == (len(bank.typefaces), len(bank.characters), CANVAS, CANVAS)
    assert len(bank.characters) >= 400
    assert (bank.pictures.max(axis=(2, 3)) > 128).all()
    edges = bank.pictures.copy()
    edges[:, :, 1:-1, 1:-1] = 0
    assert not edges.any()


def test_no_two_classes_look_the_same(bank: GlyphBank) -> None:
    for face in bank.pictures:
        assert len({picture.tobytes() for picture in face}) == len(bank.characters)


def test_look_alikes_are_one_class(bank: GlyphBank) -> None:
    assert "A" in bank.characters
    assert "Α" not in bank.characters  # Greek Alpha
    assert "А" not in bank.characters  # Cyrillic A


def test_items_carry_the_right_pictures(bank: GlyphBank) -> None:
    classes = np.array([7, 3, 200], np.int64)
    pictures, labels, faces = bank.items("validation", classes)
    assert len(pictures) == 3 * len(TYPEFACES["validation"])
    for picture, label, face in zip(pictures, labels, faces, strict=True):
        assert bank.typefaces[face] in TYPEFACES["validation"]
        assert np.array_equal(picture, bank.pictures[face, classes[label]])


def test_classes_are_drawn_without_repeats_and_by_the_seed_alone(bank: GlyphBank) -> None:
    first, again, other = (draw_classes(bank, 200, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert len(set(first.tolist())) == 200
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(ConfigError, match="ask for fewer"):
        draw_classes(bank, len(bank.characters) + 1, np.random.default_rng(0))


def test_a_missing_font_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"DejaVuSans\.ttf is missing"):
        render_bank(tmp_path)
