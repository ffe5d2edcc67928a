"""Reading FAISS index files: the rows and ids that FAISS itself holds, in bounded memory, and a sentence for the rest."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from fct_fast import errors
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores import open_source
from fct_fast.gallery.stores.faiss_layout import read_index_layout
from fct_fast.gallery.stores.npy import space_bytes
from fct_fast.gallery.stores.protocol import Shard
from fct_fast.space import SpaceFingerprint

COUNT, DIM = 400, 16
ROWS = np.random.default_rng(3).standard_normal((COUNT, DIM)).astype(np.float32)
IDS = np.random.default_rng(4).permutation(COUNT).astype(np.int64) * 3 - 50
WHOLE = Shard(0, 0, COUNT)

EXACT = ["Flat", "IVF8,Flat", "IVF200,Flat", "IVF8_HNSW4,Flat", "HNSW8", "IVF1,Flat"]
ROTATED = ["RR,Flat", "RR,IVF8,Flat", "PCAR16,Flat", "OPQ4,Flat"]
LOSSY = ["SQ8", "SQ4", "SQ6", "SQfp16", "SQbf16", "PQ4x6", "IVF8,SQ8", "IVF200,SQ4", "IVF8,PQ4x5", "HNSW8_SQ8"]
LOSSY += ["HNSW8_PQ4x4", "OPQ4,PQ4x4", "OPQ4,IVF8,PQ4x4"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def same(found: Any, expected: Any) -> bool:
    return np.array_equal(found, expected)


def built(kind: str, rows: Any = ROWS, ids: Any = None, metric: int = faiss.METRIC_L2) -> Any:
    kind = re.sub(
        r"(?<!_)(PQ\d+x\d+)(?!fs)", r"\1np", kind
    )  # np: without a search for a better order, which takes long
    index = faiss.index_factory(DIM, kind, metric)
    index.train(ROWS)
    if ids is None:
        index.add(rows)
    else:
        index.add_with_ids(rows, ids)
    return index


def stored(path: Path, index: Any) -> Path:
    faiss.write_index(index, str(path))
    return path


def reconstructed(index: Any) -> Any:
    """The rows by position, as FAISS gives them."""
    if "IVF" in type(faiss.downcast_index(index)).__name__ or isinstance(index, faiss.IndexPreTransform):
        ivf = faiss.try_extract_index_ivf(index)
        if ivf is not None:
            ivf.make_direct_map()
    return np.asarray(index.reconstruct_n(0, COUNT))  # a tensor where something has imported faiss.contrib.torch_utils


# Kinds


@pytest.mark.parametrize("kind", [*EXACT, *ROTATED, *LOSSY])
def test_rows_are_those_that_faiss_reconstructs(tmp_path: Path, kind: str) -> None:
    """Bit for bit; rotated ones but for rounding. Added without ids, an IVF is in the order of adding."""
    index = built(kind)
    source = open_source(stored(tmp_path / "a.faiss", index))
    read = source.read(WHOLE)
    expected = reconstructed(index)
    assert read.ids is None
    if kind.startswith(("RR", "PCA", "OPQ")):
        assert np.abs(read.old - expected).max() < 2e-6
    else:
        assert np.array_equal(read.old, expected)
    assert (kind in EXACT) == (not source.notes)
    assert (kind in EXACT) == np.array_equal(read.old, ROWS)
    assert source.held_bytes < 2 * (tmp_path / "a.faiss").stat().st_size


@pytest.mark.parametrize("kind", ["IDMap,Flat", "IDMap2,Flat", "IDMap,HNSW8", "IDMap2,IVF8,Flat", "IDMap,IVF8,SQ8"])
def test_mapped_ids_come_with_their_rows_in_the_order_of_adding(tmp_path: Path, kind: str) -> None:
    source = open_source(stored(tmp_path / "a.index", built(kind, ids=IDS)))
    read = source.read(Shard(1, 100, 250))
    assert same(read.ids, IDS[100:250])
    assert np.abs(read.old - ROWS[100:250]).max() < (0.1 if "SQ" in kind else 1e-12)
    assert source.take(np.array([5, 3])).ids.tolist() == IDS[[5, 3]].tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["IVF8,Flat", "IVF200,Flat", "IVF8,SQ8", "IVF8,PQ4x4"])
def test_an_ivf_that_was_given_ids_is_read_by_rising_id(tmp_path: Path, kind: str) -> None:
    """Its lists, of which some are empty, do not tell the order of adding; ids are of any value, negative ones too."""
    source = open_source(stored(tmp_path / "a.faiss", built(kind, ids=IDS)))
    read = source.read(WHOLE)
    order = np.argsort(IDS)
    assert same(read.ids, IDS[order])
    assert same(source.all_ids(), IDS[order])
    nearest = ((read.old[:, None] - ROWS[None]) ** 2).sum(-1).argmin(1)
    assert np.mean(nearest == order) > (0.9 if "PQ" in kind else 0.999)


def test_refined_rows_are_the_fine_ones(tmp_path: Path) -> None:
    """An index that finds by codes and ranks by whole rows loses nothing."""
    for kind in ("IVF8,PQ4x4,RFlat", "PQ4x4,Refine(SQfp16)", "IDMap,IVF8,PQ4x4,RFlat"):
        index = built(kind, ids=IDS if "IDMap" in kind else None)
        source = open_source(stored(tmp_path / "a.faiss", index))
        assert np.abs(source.read(WHOLE).old - ROWS).max() < (2e-3 if "fp16" in kind else 1e-12)
        assert bool(source.notes) == ("fp16" in kind)
        assert source.form["index"] == {"IVF8": "IVF8,Flat", "PQ4x": "Flat", "IDMa": "IDMap,IVF8,Flat"}[kind[:4]]


def test_the_form_names_the_kind_that_holds_the_rows_whole_and_its_settings(tmp_path: Path) -> None:
    for kind, plain in [
        ("SQ8", "Flat"),
        ("IVF8,PQ4x4", "IVF8,Flat"),
        ("HNSW8_SQ8", "HNSW8"),
        ("RR,IVF8,Flat", "IVF8,Flat"),
    ]:
        assert open_source(stored(tmp_path / "a.faiss", built(kind))).form["index"] == plain
    hnsw, ivf = built("HNSW8", metric=faiss.METRIC_INNER_PRODUCT), built("IVF8_HNSW4,Flat")
    hnsw.hnsw.efSearch, hnsw.hnsw.efConstruction, ivf.nprobe = 77, 50, 5
    form = open_source(stored(tmp_path / "a.faiss", hnsw)).form
    assert form == {"store": "faiss", "index": "HNSW8", "metric": "ip", "efSearch": 77, "efConstruction": 50}
    form = open_source(stored(tmp_path / "a.faiss", ivf)).form
    assert form == {"store": "faiss", "index": "IVF8_HNSW4,Flat", "metric": "l2", "nprobe": 5}


def test_what_rows_lost_on_their_way_into_the_index_is_told(tmp_path: Path) -> None:
    for kind, sentence in [
        (
            "SQ8",
            r"as codes \(SQ8\), so they come out as approximations: their error is about 0\.\d+ % of a row's length",
        ),
        ("IVF8,PQ4x4", r"as codes \(IVF8,PQ4x4\), .* error is about \d\d % of a row's length"),
        ("HNSW8_PQ4x4", r"as codes \(HNSW8_PQ4x4\), .* original embeddings where you have them"),
        ("RR,Flat", "they are turned back, which only rounds them"),
        ("L2norm,Flat", "their norms were dropped"),
    ]:
        notes = open_source(stored(tmp_path / "a.faiss", built(kind))).notes
        assert re.search(sentence, notes[-1])
    wide = faiss.IndexPQ(64, 2, 4)
    rows = np.random.default_rng(0).standard_normal((COUNT, 64)).astype(np.float32)
    wide.train(rows)
    wide.add(rows)
    assert "how large their error is cannot be told" in open_source(stored(tmp_path / "a.faiss", wide)).notes[0]


def test_rows_that_faiss_put_in_no_list_are_missed_aloud(tmp_path: Path) -> None:
    """It counts a row with NaN and keeps it nowhere."""
    rows = ROWS.copy()
    rows[7, 3] = np.nan
    source = open_source(stored(tmp_path / "a.faiss", built("IVF8,Flat", rows)))
    assert source.rows == COUNT - 1
    assert source.all_ids().tolist() == [i for i in range(COUNT) if i != 7]  # type: ignore[union-attr]
    assert "lacks 1 of the 400 rows" in source.notes[0]
    with pytest.raises(errors.CorruptError, match="as FAISS leaves it when rows hold NaN"):
        open_source(stored(tmp_path / "a.faiss", built("IDMap,IVF8,Flat", rows, IDS)))


# Ids and what lies beside


def test_ids_must_be_unique(tmp_path: Path) -> None:
    twice = IDS.copy()
    twice[9] = twice[4]
    for kind in ("IDMap,Flat", "IVF8,Flat"):
        with pytest.raises(errors.StoreError, match=rf"holds the id {twice[4]} twice"):
            open_source(stored(tmp_path / "a.faiss", built(kind, ids=twice)))


def test_an_index_without_ids_takes_those_of_a_npy_file(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.faiss", built("IVF8,Flat"))
    np.save(tmp_path / "ids.npy", np.array([f"item {i}" for i in IDS]))
    source = open_source({"old": path, "ids": tmp_path / "ids.npy"})
    assert source.ids_dtype == np.load(tmp_path / "ids.npy").dtype
    assert source.read(Shard(0, 10, 12)).ids.tolist() == [f"item {i}" for i in IDS[10:12]]  # type: ignore[union-attr]
    assert set(source.places) == set(source.identity()) == {"old", "ids"}
    np.save(tmp_path / "ids.npy", IDS[:-1])
    with pytest.raises(errors.ShapeError, match=r"ids\.npy has 399 rows, but .*a\.faiss has 400"):
        open_source({"old": path, "ids": tmp_path / "ids.npy"})
    stored(path, built("IDMap,Flat", ids=IDS))
    with pytest.raises(errors.ConfigError, match="has ids of its own; leave out"):
        open_source({"old": path, "ids": tmp_path / "ids.npy"})


def test_the_fingerprint_beside_an_index_is_its_space(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.faiss", built("Flat"))
    space = SpaceFingerprint.measure(ROWS, model_id="old-1")
    (tmp_path / "a.space.json").write_bytes(space_bytes(space))
    assert open_source(path).spaces == {"old": space}
    (tmp_path / "a.space.json").write_bytes(space_bytes(SpaceFingerprint.measure(ROWS[:, :5])))
    with pytest.raises(errors.SpaceError, match=r"describes rows of 5 values, but the index has rows of 16"):
        open_source(path)


def test_columns_and_options_that_an_index_has_not_are_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.faiss", built("Flat"))
    with pytest.raises(errors.ConfigError, match="names a column, which an index does not have"):
        open_source({"old": path, "side": "#side"})
    with pytest.raises(errors.ConfigError, match="has options, which are for writing"):
        open_source(f"{path}?table=x")


# Files that cannot be read


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("PQ4x4fs", "PQFastScan"),
        ("LSH", "LSH"),
        ("NSG8", "NSG"),
        ("IMI2x2,Flat", "MultiIndexQuantizer"),
        ("RaBitQ", "RaBitQ"),
        ("PCA8,Flat", r"keeps 8 of 16 values of a row \(PCA\)"),
        ("PCAW16,Flat", "by a matrix that is no rotation"),
        ("ITQ16,Flat", "Viqt"),
    ],
)
def test_kinds_that_are_not_read_are_named(tmp_path: Path, kind: str, sentence: str) -> None:
    with pytest.raises(errors.DtypeError, match=sentence) as caught:
        open_source(stored(tmp_path / "a.faiss", built(kind)))
    assert str(tmp_path / "a.faiss") in str(caught.value)
    assert "original embeddings" in str(caught.value)


def test_what_is_no_index_of_float_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.faiss"
    binary = faiss.IndexBinaryFlat(64)
    binary.add(np.zeros((3, 8), np.uint8))
    faiss.write_index_binary(binary, str(path))
    with pytest.raises(errors.DtypeError, match="is a binary index"):
        open_source(path)
    with pytest.raises(errors.DtypeError, match="searches by the metric 2 of FAISS"):
        open_source(stored(path, built("Flat", metric=faiss.METRIC_L1)))
    with pytest.raises(errors.StoreError, match="has no rows"):
        open_source(stored(path, built("Flat", ROWS[:0])))
    for text, error in ((b"", errors.FctError), (b"ann\0 an index of another library", errors.DtypeError)):
        path.write_bytes(text)
        with pytest.raises(error, match=r"a\.faiss is no FAISS index"):
            open_source(path)
    with pytest.raises(errors.StoreError, match="cannot open"):
        open_source(tmp_path / "none.faiss")


def test_lists_in_another_file_are_never_followed(tmp_path: Path) -> None:
    """A file may name any other file of the machine as that of its lists; FAISS would map it."""
    path = stored(tmp_path / "a.faiss", built("IVF8,Flat"))
    path.write_bytes(path.read_bytes().replace(b"ilar", b"ilod"))
    with pytest.raises(errors.DtypeError, match=r"does not hold its inverted lists itself \(ilod\)"):
        open_source(path)


def outcome(path: Path) -> Any:
    """All that a source gives, or that it refuses with one of our errors."""
    try:
        source = open_source(path)
        read = source.read(Shard(0, 0, source.rows))
        return read.old.tobytes(), None if read.ids is None else read.ids.tobytes(), list(source.notes)
    except errors.FctError as error:
        return None if str(path) in str(error) else "a sentence that does not say where"


@pytest.mark.parametrize("kind", ["Flat", "IDMap,Flat", "IVF8,Flat", "HNSW8", "IVF8,SQ8", "IVF8,PQ4x4", "OPQ4,PQ4x4"])
def test_a_flipped_bit_is_refused_or_read_and_never_more_memory_or_a_crash(tmp_path: Path, kind: str) -> None:
    """FAISS itself allocates terabytes for some of these files. What only changes values cannot be noticed."""
    index = built(kind, ids=IDS if kind.startswith("IDMap") else None)
    path = stored(tmp_path / "a.faiss", index)
    data, good = path.read_bytes(), outcome(path)
    rng, refused, read = np.random.default_rng(0), 0, 0
    tracemalloc.start()
    for bit in [*range(0, 8 * 100, 5), *rng.integers(0, 8 * len(data), 90).tolist()]:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        found = outcome(path)
        assert not isinstance(found, str)
        refused += found is None
        read += found == good
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * len(data) + (1 << 20)
    assert refused > 25
    assert read > 10


@pytest.mark.parametrize("kind", ["Flat", "IDMap,IVF8,Flat", "HNSW8", "IVF8,PQ4x4", "OPQ4,PQ4x4"])
def test_a_file_of_any_other_length_is_refused(tmp_path: Path, kind: str) -> None:
    path = stored(tmp_path / "a.faiss", built(kind, ids=IDS if kind.startswith("IDMap") else None))
    data = path.read_bytes()
    for size in [*range(0, 300, 7), *np.linspace(300, len(data) - 1, 30).astype(int).tolist()]:
        path.write_bytes(data[:size])
        assert outcome(path) is None
    path.write_bytes(data + b"\0")
    with pytest.raises(errors.CorruptError, match=rf"ends at byte {len(data)}, but the file has {len(data) + 1}"):
        open_source(path)


def test_indexes_in_each_other_without_end_are_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.faiss", built("IDMap,Flat", ids=IDS))
    path.write_bytes(path.read_bytes()[:37] * 5000)
    with pytest.raises(errors.CorruptError, match="lie in each other without end"):
        open_source(path)


# Memory


def test_memory_is_bounded_by_the_shard_not_by_the_index(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((60_000, DIM)).astype(np.float32)  # 3.8 MB
    for kind, ids in (("Flat", None), ("IVF8,Flat", None), ("SQ8", None)):
        source = open_source(stored(tmp_path / "a.faiss", built(kind, rows, ids)))
        tracemalloc.start()
        parts = [source.read(Shard(i, at, at + 3000)).old.sum() for i, at in enumerate(range(0, 60_000, 3000))]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(parts) == 20
        assert peak < 1.5e6, kind
        assert source.held_bytes < 1.1e6


def test_an_index_that_shrinks_while_it_is_read_is_an_error_not_a_signal(tmp_path: Path) -> None:
    for kind in ("Flat", "IVF8,Flat", "HNSW8"):
        path = stored(tmp_path / "a.faiss", built(kind))
        source = open_source(path)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(errors.StoreError, match="it was cut short"):
            source.read(WHOLE)


class CountingDisk(FileSystem):
    calls = bytes = 0

    def pread(self, fd: int, buffer: memoryview, offset: int) -> int:
        count = super().pread(fd, buffer, offset)
        self.calls += 1
        self.bytes += count
        return count


def test_rows_near_each_other_are_read_together(tmp_path: Path) -> None:
    """One system call a list and shard, where rows were added in order."""
    disk = CountingDisk()
    source = open_source(stored(tmp_path / "a.faiss", built("IVF8,Flat")), disk)
    disk.calls = 0
    source.read(Shard(0, 100, 300))
    assert disk.calls <= 8


def test_little_of_a_file_is_read_to_find_its_rows(tmp_path: Path) -> None:
    for kind in ("Flat", "HNSW8", "PQ4x4"):
        disk = CountingDisk()
        index = read_index_layout(stored(tmp_path / "a.faiss", built(kind)), disk)
        assert (index.rows, index.dim) == (COUNT, DIM)
        assert disk.bytes < 600
