"""Writing FAISS index files: what FAISS itself would write, the same each time, and searched by FAISS as it should be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from fct_fast import errors
from fct_fast.fs import DISK, FileSystem
from fct_fast.gallery.stores import open_sink, open_source
from fct_fast.gallery.stores.protocol import Layout, Sink

COUNT, DIM, SHARD_ROWS = 500, 12, 120
ROWS = np.random.default_rng(5).standard_normal((COUNT, DIM)).astype(np.float32)
ROWS /= np.linalg.norm(ROWS, axis=1, keepdims=True)
IDS = np.random.default_rng(6).permutation(COUNT).astype(np.int64) * 7 - 100
TOKEN = "0a1b2c3d"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def layout(
    ids: str | None = "<i8", form: dict[str, Any] | None = None, rows: int = COUNT, dtype: str = "<f4"
) -> Layout:
    kept = None if ids is None else np.dtype(ids)
    return Layout(rows, DIM, np.dtype(dtype), kept, SHARD_ROWS, form=form or {})


def written(place: str | Path, planned: Layout, ids: Any = IDS, fs: FileSystem = DISK) -> Sink:
    """A sink with all rows, published."""
    sink = open_sink(place, planned, TOKEN, fs)
    sink.begin()
    put(sink, planned, ids)
    sink.publish(None)
    sink.close()
    return sink


def put(sink: Sink, planned: Layout, ids: Any = IDS) -> None:
    for shard in map(planned.shard, range(planned.shards)):
        part = slice(shard.start, shard.stop)
        sink.write(shard, ROWS[part], ids[part] if planned.ids_dtype is not None else None, None)


def held(sink: Sink, planned: Layout) -> tuple[Any, Any]:
    loaded = [sink.load(planned.shard(index)) for index in range(planned.shards)]
    ids = None if loaded[0].ids is None else np.concatenate([part.ids for part in loaded if part.ids is not None])
    return np.concatenate([part.new for part in loaded]), ids


def same(found: Any, expected: Any) -> bool:
    return np.array_equal(found, expected)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is written


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("id_map", ["", "IDMap", "IDMap2"])
def test_a_flat_index_has_the_very_bytes_that_faiss_writes(tmp_path: Path, metric: str, id_map: str) -> None:
    kind = f"{id_map},Flat" if id_map else "Flat"
    index = faiss.index_factory(DIM, kind, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
    if id_map:
        index.add_with_ids(ROWS, IDS)
    else:
        index.add(ROWS)
    faiss.write_index(index, str(tmp_path / "theirs"))
    written(f"{tmp_path / 'a.faiss'}?index={kind}&metric={metric}", layout("<i8" if id_map else None))
    assert (tmp_path / "a.faiss").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("kind", ["Flat", "IVF4,Flat", "IVF4_HNSW4,Flat", "HNSW8", "IDMap2,HNSW8", "IDMap,IVF4,Flat"])
@pytest.mark.parametrize("with_ids", [False, True])
def test_faiss_finds_every_row_by_its_id(tmp_path: Path, kind: str, with_ids: bool) -> None:
    """Of IVF in all lists, of HNSW with a search as wide as the gallery."""
    written(f"{tmp_path / 'a.faiss'}?index={kind}", layout("<i8" if with_ids else None))
    index = faiss.read_index(str(tmp_path / "a.faiss"))
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index
    if isinstance(inner, faiss.IndexIVF):
        inner.nprobe = 4
    elif isinstance(inner, faiss.IndexHNSW):
        inner.hnsw.efSearch = COUNT
    scores, found = index.search(ROWS, 1)
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    assert np.array_equal(found[:, 0], IDS if with_ids else np.arange(COUNT))
    assert np.allclose(scores, 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["IVF4,Flat", "IVF4_HNSW4,Flat", "HNSW8"])
def test_equal_rows_give_equal_bytes_whatever_the_number_of_threads(tmp_path: Path, kind: str) -> None:
    """With a FAISS whose threads would build different graphs, one builds."""
    found = set()
    for threads in (1, 4, 3):
        faiss.omp_set_num_threads(threads)
        path = tmp_path / f"{threads}.faiss"
        written(f"{path}?index={kind}", layout())
        assert faiss.omp_get_max_threads() == threads
        found.add(path.read_bytes())
    assert len(found) == 1


def test_a_graph_is_built_by_one_thread_where_threads_would_build_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faiss.omp_set_num_threads(4)
    many = [open_sink(f"{tmp_path / 'a.faiss'}?index={kind}", layout(), TOKEN) for kind in ("HNSW8", "IVF4,Flat")]
    seconds = [sink.build_seconds for sink in many]
    assert [list(sink.notes) for sink in many] == [[], []]
    monkeypatch.setattr(faiss, "__version__", "1.14.3")
    assert many[0].build_seconds == pytest.approx(4 * seconds[0])
    assert many[1].build_seconds == seconds[1]
    assert "is built by one thread" in many[0].notes[0]


def test_an_index_keeps_the_settings_of_the_one_that_it_comes_from(tmp_path: Path) -> None:
    form = {"store": "faiss", "index": "IVF4,Flat", "metric": "l2", "nprobe": 3}
    written(tmp_path / "a.faiss", layout(form=form))
    index = faiss.read_index(str(tmp_path / "a.faiss"))
    assert (type(index).__name__, index.nlist, index.nprobe) == ("IndexIVFFlat", 4, 3)
    assert index.metric_type == faiss.METRIC_L2
    form = {"store": "faiss", "index": "IDMap2,HNSW8", "metric": "ip", "efSearch": 70, "efConstruction": 55}
    written(tmp_path / "b.faiss", layout(form=form))
    index = faiss.read_index(str(tmp_path / "b.faiss"))
    assert type(index).__name__ == "IndexIDMap2"
    hnsw = faiss.downcast_index(index.index).hnsw
    assert (hnsw.nb_neighbors(1), hnsw.efSearch, hnsw.efConstruction) == (8, 70, 55)
    odd = {"store": "faiss", "index": "HNSW8", "efSearch": 1 << 30, "efConstruction": 0}  # of a damaged file
    written(tmp_path / "c.faiss", layout(None, odd))
    hnsw = faiss.read_index(str(tmp_path / "c.faiss")).hnsw
    assert (hnsw.efSearch, hnsw.efConstruction) == (16, 40)


def test_a_lossy_source_gives_an_index_of_whole_rows(tmp_path: Path) -> None:
    index = faiss.index_factory(DIM, "IVF4,SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(ROWS)
    index.add_with_ids(ROWS, IDS)
    faiss.write_index(index, str(tmp_path / "old.faiss"))
    source = open_source(tmp_path / "old.faiss")
    written(tmp_path / "new.faiss", layout(form=dict(source.form)), np.sort(IDS))
    back = open_source(tmp_path / "new.faiss")
    assert back.form == source.form
    assert not back.notes


@pytest.mark.parametrize("ids", ["<i8", "<i4", "<u8", "<u2"])
def test_integer_ids_come_back_in_their_own_type(tmp_path: Path, ids: str) -> None:
    numbers = np.random.default_rng(0).permutation(COUNT).astype(ids)
    for kind in ("Flat", "IVF4,Flat", "HNSW8"):
        planned = layout(ids)
        sink = written(f"{tmp_path / kind[0]}.faiss?index={kind}", planned, numbers)
        rows, found = held(sink, planned)
        assert found.dtype == np.dtype(ids)
        assert np.array_equal(found, numbers)
        assert np.array_equal(rows, ROWS)


def test_what_lies_beside_a_built_index_is_what_it_needs(tmp_path: Path) -> None:
    """A digest that sha256sum understands, and the order of ids only where the lists of an IVF forget it."""
    written(f"{tmp_path / 'a.faiss'}?index=IVF4,Flat", layout(), np.sort(IDS))
    written(f"{tmp_path / 'b.faiss'}?index=IVF4,Flat", layout())
    written(f"{tmp_path / 'c.faiss'}?index=HNSW4", layout())
    written(tmp_path / "d.faiss", layout())
    assert names(tmp_path) == [
        *("a.faiss", "a.faiss.sha256", "b.faiss", "b.faiss.ids.npy", "b.faiss.sha256"),
        *("c.faiss", "c.faiss.sha256", "d.faiss"),
    ]
    digest = hashlib.sha256((tmp_path / "a.faiss").read_bytes()).hexdigest()
    assert (tmp_path / "a.faiss.sha256").read_text() == f"{digest}  a.faiss\n"
    assert np.array_equal(np.load(tmp_path / "b.faiss.ids.npy"), IDS)


# What is refused


@pytest.mark.parametrize(
    ("place", "planned", "sentence"),
    [
        ("", layout(dtype="<f2"), r"cannot keep float16 rows, as FAISS has float32; use out_dtype='float32'"),
        ("", layout("<U7"), r"cannot keep ids of <U7, as those of FAISS are 64-bit integers"),
        ("?index=SQ8", layout(), r"index='SQ8' of .* is not written, as rows are kept whole; choose Flat"),
        ("?index=IVF16,PQ8", layout(), "compress the upgraded index afterwards"),
        ("?index=IVF0,Flat", layout(), "is not written"),
        ("?index=", layout(), "index='' of .* is not written"),
        ("?index=IVF501,Flat", layout(), "has 501 lists for 500 rows; choose fewer"),
        ("?index=HNSW1", layout(), "has 1 neighbours a row; choose from 2 to 512"),
        ("?metric=cosine", layout(), r"metric='cosine' of .* is none; choose ip \(inner product\) or l2"),
        ("?nprobe=3", layout(), "has the option 'nprobe'; a FAISS index takes index and metric"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path, place: str, planned: Layout, sentence: str) -> None:
    with pytest.raises(errors.ConfigError, match=sentence):
        open_sink(f"{tmp_path / 'a.faiss'}{place}", planned, TOKEN)
    assert names(tmp_path) == []


def test_ids_beyond_63_bits_are_refused(tmp_path: Path) -> None:
    planned = layout("<u8")
    sink = open_sink(tmp_path / "a.faiss", planned, TOKEN)
    sink.begin()
    numbers = np.arange(COUNT, dtype=np.uint64) + np.uint64(2**63 - 5)
    with pytest.raises(errors.StoreError, match=rf"cannot keep the id {2**63 + 114}, as those of FAISS are signed"):
        put(sink, planned, numbers)
    sink.close()


# What building takes


def test_a_plan_knows_what_building_takes(tmp_path: Path) -> None:
    flat, ivf, hnsw = (
        open_sink(f"{tmp_path / 'a.faiss'}?index={kind}", layout(rows=1_000_000), TOKEN)
        for kind in ("Flat", "IVF1024,Flat", "HNSW32")
    )
    assert (flat.build_seconds, flat.held_bytes) == (0, 0)
    assert 1 < ivf.build_seconds < 100 < hnsw.build_seconds < 10_000
    rows = 1_000_000 * 4 * DIM
    assert rows < ivf.held_bytes < hnsw.held_bytes < 20 * rows
    free = [sink.free_bytes for sink in (flat, hnsw)]
    assert free[0] is not None
    assert free[1] is not None
    assert free[0] - free[1] > rows - (64 << 20)


def test_rows_of_a_flat_index_are_never_all_in_memory(tmp_path: Path) -> None:
    """What is written of a shard is the shard."""

    class Widest(FileSystem):
        widest = 0

        def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
            self.widest = max(self.widest, len(data))
            return super().pwrite(fd, data, offset)

    disk = Widest()
    written(tmp_path / "a.faiss", layout(), fs=disk)
    assert disk.widest == SHARD_ROWS * DIM * 4


# Damage


@pytest.mark.parametrize("kind", ["IVF4,Flat", "HNSW8"])
def test_damage_anywhere_in_a_built_index_is_reported_and_repaired_by_writing_it_again(
    tmp_path: Path, kind: str
) -> None:
    """Also in its graph, which no row vouches for, and in what lies beside it."""
    planned, place = layout(), f"{tmp_path / 'a.faiss'}?index={kind}"
    written(place, planned)
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, data in whole.items():
        for damaged in (data[:-1], data[: len(data) // 2] + b"?" + data[len(data) // 2 + 1 :], data + b"\0", None):
            path = tmp_path / name
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            sink = open_sink(place, planned, TOKEN)
            try:
                assert not same(held(sink, planned)[1], IDS)  # the order is gone, which the digest of each shard tells
            except errors.StoreError as error:
                assert str(tmp_path / "a.faiss") in str(error)  # noqa: PT017
            sink.begin()
            put(sink, planned)
            if name == "a.faiss" and damaged is None:  # it was not at its place
                sink.publish(None)
            sink.close()
            assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole


def test_a_second_building_that_was_killed_leaves_nothing(tmp_path: Path) -> None:
    planned, place = layout(), f"{tmp_path / 'a.faiss'}?index=HNSW8"
    written(place, planned)
    whole = names(tmp_path)
    sink = open_sink(place, planned, TOKEN)
    sink.begin()
    sink.write(planned.shard(0), ROWS[:SHARD_ROWS], IDS[:SHARD_ROWS], None)
    sink.close()
    assert len(names(tmp_path)) == len(whole) + 1
    again = open_sink(place, planned, TOKEN)
    assert again.published
    again.begin()
    assert names(tmp_path) == whole
    assert np.array_equal(held(again, planned)[0], ROWS)
    again.close()
