"""The loss that a source tells of a lossy index is near the true one, which only the original rows show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from fct_fast.fs import DISK
from fct_fast.gallery.stores.faiss_layout import read_index_layout
from fct_fast.gallery.stores.faiss_loss import expected_error
from fct_fast.gallery.stores.faiss_rows import IndexRows

COUNT, DIM = 2000, 32
Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def data(name: str) -> Array:
    """Rows as embeddings are spread: evenly, in few directions, in clusters, rectified, of unit length."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((COUNT, DIM))
    if name == "few directions":
        rows = rows[:, :8] @ rng.standard_normal((8, DIM)) + 0.1 * rng.standard_normal((COUNT, DIM))
    if name == "clusters":
        rows = rng.standard_normal((100, DIM))[rng.integers(0, 100, COUNT)] + 0.4 * rows
    if name == "rectified":
        rows = np.maximum(rows - 0.5, 0) + 1e-3 * rng.standard_normal((COUNT, DIM))
    if name == "unit":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def ratio(path: Path, index: Any, rows: Array, learned: int = COUNT) -> float:
    """The expected error over the true one, both relative to the length of rows."""
    index.train(rows[:learned])
    index.add(rows)
    faiss.write_index(index, str(path))
    stored = IndexRows(read_index_layout(path, DISK), path, DISK)
    slots = np.arange(COUNT)
    if "IVF" in type(index).__name__:
        slots = np.argsort(stored.list_ids())
    found = stored.take(slots)
    true = np.sqrt(np.sum((found - rows) ** 2, dtype=np.float64) / np.sum(rows**2, dtype=np.float64))
    expected = expected_error(stored.codec.quantiser, stored.codes(slots[::4]), found[::4])
    assert expected is not None
    return expected / float(true)


@pytest.mark.parametrize("name", ["even", "few directions", "clusters", "unit"])
@pytest.mark.parametrize("kind", ["SQ8", "SQ6", "SQ4", "SQfp16", "SQbf16", "IVF16,SQ8", "IVF16,SQfp16"])
def test_of_a_scalar_quantiser_within_a_tenth(tmp_path: Path, kind: str, name: str) -> None:
    assert 0.9 < ratio(tmp_path / "a.faiss", faiss.index_factory(DIM, kind), data(name)) < 1.1


@pytest.mark.parametrize("name", ["even", "few directions", "clusters", "rectified", "unit"])
def test_of_a_scalar_quantiser_of_other_rows_within_a_factor_of_2(tmp_path: Path, name: str) -> None:
    """Values beyond the range that was learned are cut off, and rectified ones crowd at the end of a step; the file
    does not tell."""
    for kind in ("SQ8", "SQ4", "IVF8,SQ8"):
        assert 0.5 < ratio(tmp_path / "a.faiss", faiss.index_factory(DIM, kind), data(name), 3 * COUNT // 4) < 1.2


def test_of_a_scalar_quantiser_with_one_range(tmp_path: Path) -> None:
    for number in (faiss.ScalarQuantizer.QT_8bit_uniform, faiss.ScalarQuantizer.QT_4bit_uniform):
        assert 0.9 < ratio(tmp_path / "a.faiss", faiss.IndexScalarQuantizer(DIM, number), data("even")) < 1.1


@pytest.mark.parametrize("name", ["even", "few directions", "clusters", "rectified", "unit"])
@pytest.mark.parametrize("kind", ["PQ32x4", "PQ16x6", "PQ8x4", "PQ4x6", "PQ2x8", "IVF8,PQ8x6"])
def test_of_a_product_quantiser_within_a_factor_of_2(tmp_path: Path, kind: str, name: str) -> None:
    """1 to 16 dimensions a code."""
    assert 0.5 < ratio(tmp_path / "a.faiss", faiss.index_factory(DIM, f"{kind}np"), data(name), 3 * COUNT // 4) < 2


def test_what_cannot_be_told_is_not_told() -> None:
    wide, rows = faiss.IndexPQ(DIM, 1, 4), data("even")
    wide.train(rows[:500])
    assert expected_error(wide, wide.sa_encode(rows), rows) is None
    plain = faiss.index_factory(DIM, "SQ8")
    plain.train(rows)
    codes = plain.sa_encode(rows)
    odd_rows: list[Array] = [np.zeros_like(rows), np.full_like(rows, np.inf), np.full_like(rows, np.nan)]
    for odd in odd_rows:
        assert expected_error(plain, codes, odd) is None
