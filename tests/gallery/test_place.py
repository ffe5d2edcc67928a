"""A place is read as it was meant, and what is no place, or gives away a password, is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fct_fast.errors import ConfigError, StoreError
from fct_fast.gallery.stores import Place, open_source

SERVER = "postgresql://me@host:5432/db"


@pytest.mark.parametrize(
    ("text", "location", "options", "column"),
    [
        ("/a/old.npy", "/a/old.npy", {}, ""),
        ("/a/items.parquet#emb", "/a/items.parquet", {}, "emb"),
        ("/a/new.faiss?index=IVF16,Flat&metric=l2", "/a/new.faiss", {"index": "IVF16,Flat", "metric": "l2"}, ""),
        ("/a/items.lance?version=3#emb", "/a/items.lance", {"version": "3"}, "emb"),
        ("/a/part-?.npy", "/a/part-?.npy", {}, ""),
        (f"{SERVER}?table=public.items#emb", SERVER, {"table": "public.items"}, "emb"),
        ("postgresql:///db?host=/run/pg&table=t#e", "postgresql:///db", {"host": "/run/pg", "table": "t"}, "e"),
    ],
)
def test_a_place_is_location_options_and_column(text: str, location: str, options: dict[str, str], column: str) -> None:
    place = Place.parse(text)
    assert (place.location, dict(place.options), place.column) == (location, options, column)
    assert Place.parse(str(place)) == place


def test_a_bare_column_stands_beside_another_place() -> None:
    old = Place.parse(f"{SERVER}?table=items#emb")
    side = Place.parse("#psi", old)
    assert (side.location, side.options, side.column) == (old.location, old.options, "psi")
    with pytest.raises(ConfigError, match=r"names a column but no gallery; write it as GALLERY#psi"):
        Place.parse("#psi")


def test_a_file_may_be_called_what_looks_like_a_column(tmp_path: Path) -> None:
    odd = tmp_path / "a#b?c=d.npy"
    odd.write_bytes(b"")
    assert Place.parse(str(odd)) == Place(str(odd))


@pytest.mark.parametrize(
    ("text", "name", "options", "column"),
    [
        ("run#1/what?x=y/old.npy", "old.npy", {}, ""),
        ("run#1/what?x=y/old.parquet#emb", "old.parquet", {}, "emb"),
        ("run#1/new.faiss?index=IVF16,Flat", "new.faiss", {"index": "IVF16,Flat"}, ""),
        ("run#1/a#b.lance?version=3#emb", "a#b.lance", {"version": "3"}, "emb"),
    ],
)
def test_a_folder_may_be_called_anything(
    tmp_path: Path, text: str, name: str, options: dict[str, str], column: str
) -> None:
    """And what a ledger records is read again as the same place."""
    place = Place.parse(f"{tmp_path}/{text}")
    assert (place.path.name, dict(place.options), place.column) == (name, options, column)
    assert place.path.parent == tmp_path / Path(text.partition(name)[0])
    assert Place.parse(str(place)) == place


def test_two_names_of_one_file_are_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    assert Place.parse(tmp_path / "link" / "x.npy") == Place.parse("x.npy") == Place.parse("../link/x.npy")


def test_what_belongs_to_a_gallery_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Place.parse("/a/new.npy").beside(".job") == Path("/a/new.npy.job")
    monkeypatch.chdir(tmp_path)
    assert Place.parse(f"{SERVER}?table=public.items_v2").beside(".job") == Path.cwd() / "public.items_v2.job"
    with pytest.raises(ConfigError, match="is no path of a file"):
        _ = Place.parse(SERVER).path


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"holds a password.*PGPASSWORD") as caught:
        Place.parse("postgresql://me:s3cret@host/db?table=items")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "a\0b"])
def test_what_names_no_place(text: str) -> None:
    with pytest.raises(ConfigError, match="names no place"):
        Place.parse(text)


def test_places_that_no_store_reads(tmp_path: Path) -> None:
    for text in ("mysql://host/db", str(tmp_path / "x.hdf5")):
        with pytest.raises(ConfigError, match="no store of this version reads or writes"):
            open_source(text)
    with pytest.raises(StoreError, match="check the path of the gallery"):
        open_source(tmp_path)
    for named in ({"side": "a.npy"}, {"old": "a.npy", "psi": "b.npy"}):
        with pytest.raises(ConfigError, match="a source has 'old' and may have 'side' and 'ids'"):
            open_source(named)
    with pytest.raises(ConfigError, match="which .npy files do not have"):
        open_source("a.npy#emb")
