"""The drawn glyphs on disk, so that the fonts are rendered once. A file that is not what was written is drawn anew."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path

import matplotlib
import numpy as np
import PIL
from PIL import features

from fct_fast.data.glyphs import CANVAS, GlyphBank, render_bank
from fct_fast.fs import write_atomic

__all__ = ["cached_bank", "default_cache_dir"]

_LAYOUT = 1  # raise it when what `render_bank` draws changes


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/fct_fast, or ~/.cache/fct_fast."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fct_fast"


def cached_bank(cache_dir: Path | None = None) -> GlyphBank:
    """`render_bank()`, read from `cache_dir` where it is there and sound, else drawn and stored there.

    The file's name depends on what the pictures depend on. A folder that cannot be written only costs time.
    """
    path = (cache_dir or default_cache_dir()) / f"glyphs-{_key()}.npz"
    bank = _read(path)
    if bank is None:
        bank = render_bank()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, bank)
    return bank


def _key() -> str:
    versions = (_LAYOUT, CANVAS, matplotlib.__version__, PIL.__version__, features.version("freetype2"))
    return hashlib.sha256(repr(versions).encode()).hexdigest()[:16]


def _write(path: Path, bank: GlyphBank) -> None:
    """32 bytes of SHA-256, then an .npz archive."""
    buffer = io.BytesIO()
    arrays = {"characters": np.array(bank.characters), "typefaces": np.array(bank.typefaces), "pictures": bank.pictures}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    body = buffer.getvalue()
    write_atomic(path, hashlib.sha256(body).digest(), body)


def _read(path: Path) -> GlyphBank | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, body = content[:32], content[32:]
    if hashlib.sha256(body).digest() != digest:
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return GlyphBank(tuple(arrays["characters"].tolist()), tuple(arrays["typefaces"].tolist()), arrays["pictures"])
