"""A codec's file gives back the codec bit for bit, and no damaged or hostile file gets past the reader."""

import hashlib
import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fct_fast.errors import BundleError, StoreError
from fct_fast.side import fit_codec, load_codec, save_codec
from fct_fast.side.file import METADATA_KEY

ROWS = np.random.default_rng(1).normal(size=(60, 6)).astype(np.float32)
SPECS = ["float32", "int8", "binary", "pq2", "truncate4", "pca3+int8", "truncate5+pca4+pq2"]


@pytest.mark.parametrize("spec", SPECS)
def test_round_trip(tmp_path: Path, spec: str) -> None:
    codec, path = fit_codec(spec, ROWS), tmp_path / "codec.safetensors"
    save_codec(codec, path)
    loaded = load_codec(path)
    assert (loaded.spec, loaded.dim, loaded.bytes_per_item) == (codec.spec, codec.dim, codec.bytes_per_item)
    codes = codec.encode(ROWS)
    assert np.array_equal(loaded.encode(ROWS), codes)
    assert np.array_equal(loaded.decode(codes), codec.decode(codes))
    save_codec(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_safetensors_reads_the_tensors(tmp_path: Path) -> None:
    """The format is the public one, not one of our own."""
    from safetensors import safe_open

    codec = fit_codec("pca3+int8", ROWS)
    save_codec(codec, tmp_path / "c")
    with safe_open(tmp_path / "c", "np") as file:
        assert sorted(file.keys()) == ["0.components", "0.mean", "1.centre", "1.scale"]
        assert np.array_equal(file.get_tensor("1.scale"), codec.quantiser.scale)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        save_codec(fit_codec("int8", ROWS), tmp_path / "none" / "c")


# ---- damaged and hostile files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_codec(fit_codec("pca2+int8", ROWS), tmp_path / "codec")
    return tmp_path / "codec"


def refuses(path: Path, match: str | None = None) -> None:
    with pytest.raises(BundleError, match=match) as caught:
        load_codec(path)
    message = str(caught.value)
    assert path.name in message
    assert message.isprintable()
    assert len(message) < 500


def test_every_truncation_and_every_flipped_bit_is_refused(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    for length in range(len(data) - 1, -1, -1):
        os.truncate(path, length)
        refuses(path)
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        refuses(path)
    path.write_bytes(data + b"\0")
    refuses(path, "header describes")
    path.write_bytes(data)
    load_codec(path)  # and whole again


def test_links_pipes_and_other_files(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    refuses(link, "symbolic link")
    refuses(tmp_path / "none", "no file")
    from safetensors.numpy import save_file

    save_file({"x": ROWS}, tmp_path / "other")
    refuses(tmp_path / "other", "no codec")


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> None:
    """The file again with its document and tensors changed, and a digest that is right unless it was changed too."""
    from safetensors.numpy import load, save

    data = path.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    document, tensors = json.loads(header["__metadata__"][METADATA_KEY]), load(data)
    before = document["sha256"]
    change(document, tensors)

    def canonical(value: Any) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    if document.get("sha256") == before:
        del document["sha256"]
        sha = hashlib.sha256(canonical(document))
        for name in sorted(tensors):
            sha.update(canonical([name, list(tensors[name].shape)]) + tensors[name].tobytes())
        document["sha256"] = sha.hexdigest()
    path.write_bytes(save(tensors, {METADATA_KEY: json.dumps(document)}))


def put(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    """A change of one tensor (names with a dot) or one field of the document."""

    def change(document: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        if "." in name:
            tensors[name] = np.asarray(value, np.float32)
        else:
            document[name] = value

    return change


def test_the_tool_of_these_tests_makes_good_files_too(path: Path) -> None:
    before = load_codec(path)
    rewritten(path, lambda document, tensors: None)
    assert np.array_equal(load_codec(path).encode(ROWS), before.encode(ROWS))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (put("1.scale", [np.nan, 1]), "finite"),
        (put("1.scale", [0, 1]), "must be positive"),
        (put("1.scale", [-1, 1]), "must be positive"),
        (put("1.scale", [3e38, 1]), "beyond float32"),
        (put("1.scale", [1]), r"\[2\], got \[1\]"),
        (put("1.centre", [[1], [1]]), "finite float32 values"),
        (put("0.mean", [1, 2, 3]), r"\[6\], got \[3\]"),
        (put("0.components", np.ones(6)), "components"),
        (put("0.components", np.ones((7, 6))), "1 to 6 of 6"),
        (put("0.components", np.ones((3, 6))), "gives 3 dimensions, but the next one takes 2"),
        (put("2.extra", [1]), "does not use: '2.extra'"),
        (lambda document, tensors: tensors.pop("1.scale"), "'1.scale' is missing"),
        (put("spec", "pca2+binary"), "'1.threshold' is missing"),
        (put("spec", "pca2+pq40000"), "2 codebooks, its spec asks for 40000"),
        (put("spec", "pca3+int8"), "but its tensors make 'pca2"),
        (put("spec", "\n" * 9), "no codec step"),
        (put("spec", "pca2+" * 60), "short"),
        (put("spec", 3), "and nothing else"),
        (put("dim", 7), "but its tensors make"),
        (put("dim", 1 << 40), "dim must be"),
        (put("dim", True), "and nothing else"),
        (put("format", 2), "not of format 1"),
        (put("format", True), "not of format 1"),
        (put("more", 1), "and nothing else"),
        (put("sha256", "0" * 64), "digest is wrong"),
    ],
)
def test_hostile_files_are_refused(
    path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None], match: str
) -> None:
    rewritten(path, change)
    refuses(path, match)


def test_codebooks_that_do_not_fit_together(tmp_path: Path) -> None:
    path = tmp_path / "pq"
    for book, match in (
        (np.ones((300, 3)), "same number of centroids"),
        (np.ones((60, 1)), "evenly"),
        (np.ones(60), "same number"),
    ):
        save_codec(fit_codec("pq2", ROWS), path)
        rewritten(path, put("0.codebook.1", book))
        refuses(path, match)


def test_a_hostile_file_costs_no_more_memory_than_its_size(path: Path) -> None:
    header = {"x": {"dtype": "F32", "shape": [1 << 16, 1 << 16], "data_offsets": [0, 1 << 34]}}
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    os.truncate(path, 8 + len(raw) + (1 << 34))  # sparse: 16 GiB on paper
    tracemalloc.start()
    refuses(path, "no codec")
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
