"""The glyph cache: what is read back is what was drawn, damage is drawn anew, an unwritable folder is no error."""

from pathlib import Path

import numpy as np
import pytest

from fct_fast.data import glyph_cache
from fct_fast.data.glyphs import GlyphBank


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> list[GlyphBank]:
    """Every bank that was drawn, a tiny one each time."""
    drawn: list[GlyphBank] = []

    def render() -> GlyphBank:
        drawn.append(GlyphBank(("A", "é"), ("Sans",), np.arange(2 * 9, dtype=np.uint8).reshape(1, 2, 3, 3)))
        return drawn[-1]

    monkeypatch.setattr(glyph_cache, "render_bank", render)
    return drawn


def test_drawn_once_and_read_back_alike(tmp_path: Path, drawings: list[GlyphBank]) -> None:
    first = glyph_cache.cached_bank(tmp_path / "new" / "folder")
    again = glyph_cache.cached_bank(tmp_path / "new" / "folder")
    assert len(drawings) == 1
    assert (first.characters, first.typefaces) == (again.characters, again.typefaces)
    assert np.array_equal(first.pictures, again.pictures)
    assert again.pictures.dtype == np.uint8


@pytest.mark.parametrize("damage", [b"", b"x" * 10, b"flip", b"cut"])
def test_a_damaged_file_is_drawn_anew(tmp_path: Path, drawings: list[GlyphBank], damage: bytes) -> None:
    glyph_cache.cached_bank(tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    flipped = content[:100] + bytes([content[100] ^ 1]) + content[101:]
    path.write_bytes({b"flip": flipped, b"cut": content[:-7]}.get(damage, damage))
    bank = glyph_cache.cached_bank(tmp_path)
    assert len(drawings) == 2
    assert np.array_equal(bank.pictures, drawings[0].pictures)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, drawings: list[GlyphBank]) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert glyph_cache.cached_bank(tmp_path / "file" / "below").characters == ("A", "é")
    assert len(drawings) == 1
