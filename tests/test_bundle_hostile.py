"""No damaged or hostile file gets past the reader of bundles: each is a BundleError with one sentence."""

import hashlib
import json
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fct_fast.bundle import read_bundle, write_bundle
from fct_fast.errors import BundleError
from fct_fast.space import SpaceFingerprint, canonical_json
from fct_fast.spec import Branch, Layer, TransformSpec

KEY = "fct_fast"


@pytest.fixture
def tiny(tmp_path):
    """A small bundle with everything in it: its path, and what `write_bundle` returned."""
    rng = np.random.default_rng(0)

    def layer(out, into, relu=True):
        return Layer(rng.normal(size=(out, into)).astype(np.float32), rng.normal(size=out).astype(np.float32), relu)

    branches = (Branch("old", (layer(2, 2),)), Branch("side", ()))
    spec = TransformSpec(2, 1, 2, branches, (layer(2, 3), layer(2, 2, relu=False)))
    dims = {"old": 2, "side": 1, "new": 2}
    spaces = {key: SpaceFingerprint.measure(rng.normal(size=(50, d)), model_id=f"m-{key}") for key, d in dims.items()}
    scales = {"activation_max": {"branches.0.0": [0.5, 1.25], "trunk.0": [3.0, 0.0]}, "rows": 50}
    path = tmp_path / "h.safetensors"
    return path, write_bundle(path, spec=spec, spaces=spaces, scales=scales, training={"pairs": 50, "loss": [0.1]})


# ---- damaged files


def refuses(path, match=None):
    """`read_bundle` raises BundleError with one readable sentence that names the file."""
    with pytest.raises(BundleError, match=match) as caught:
        read_bundle(path)
    message = str(caught.value)
    assert Path(path).name in message
    assert message.isprintable()
    assert len(message) < 500


def test_missing_folder_link_pipe_and_device(tiny, tmp_path):
    refuses(tmp_path / "none", "no file")
    refuses(tmp_path, "not a regular file")
    link = tmp_path / "link"
    link.symlink_to(tiny[0])
    refuses(link, "symbolic link")
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "none")
    refuses(dangling, "symbolic link")
    os.mkfifo(tmp_path / "pipe")
    refuses(tmp_path / "pipe", "not a regular file")
    refuses("/dev/null", "not a regular file")
    with pytest.raises(BundleError):
        read_bundle("a\0b")
    refuses(tiny[0] / "below a file", "cannot open")


def test_every_truncation_is_refused(tiny, tmp_path):
    data = tiny[0].read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(data)
    for length in range(len(data) - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(BundleError):
            read_bundle(path)


def test_every_flipped_byte_is_refused(tiny, tmp_path):
    data = bytearray(tiny[0].read_bytes())
    path = tmp_path / "flipped"
    path.write_bytes(data)
    with path.open("r+b", buffering=0) as file:
        for i in range(len(data)):
            file.seek(i)
            file.write(bytes([data[i] ^ 1 << i % 8]))
            with pytest.raises(BundleError):
                read_bundle(path)
            file.seek(i)
            file.write(data[i : i + 1])
    read_bundle(path)  # and whole again


@pytest.mark.parametrize("extra", [b"\0", b"x" * 4096])
def test_extra_bytes_are_refused(tiny, extra):
    tiny[0].write_bytes(tiny[0].read_bytes() + extra)
    refuses(tiny[0], "header describes")


# ---- hostile files: made by hand, with a digest that is right unless said otherwise


def parts(path):
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"][KEY]), data[8 + length :]


def assemble(header, body):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def with_header(change):
    def make(path):
        header, _, body = parts(path)
        return assemble(change(header) or header, body)

    return make


def with_document(change):
    """Change the document and sign it again, so that only the checks of its content stand in the way."""

    def make(path):
        header, document, body = parts(path)
        document = change(document) or document
        if isinstance(document, dict):
            unsigned = {k: v for k, v in document.items() if k != "sha256"}
            sha = hashlib.sha256(canonical_json(unsigned))
            for name in ("branches.0.0", "trunk.0", "trunk.1"):
                for part in ("weight", "bias"):
                    begin, end = header[f"{name}.{part}"]["data_offsets"]
                    sha.update(body[begin:end])
            if "sha256" in document:
                document["sha256"] = sha.hexdigest()
        header["__metadata__"][KEY] = canonical_json(document).decode()
        return assemble(header, body)

    return make


def with_text(change):
    """Change the text of the document as it stands."""

    def make(path):
        header, _, body = parts(path)
        header["__metadata__"][KEY] = change(header["__metadata__"][KEY])
        return assemble(header, body)

    return make


def put(*keys, value):
    def change(document):
        inner = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


def drop(*keys):
    def change(document):
        inner = document
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]

    return change


def raw_header(text):
    return lambda path: assemble(text, parts(path)[2])


def renamed(header):
    header["__class__"] = header.pop("trunk.0.bias")


def swapped(header):
    header["trunk.0.bias"], header["trunk.1.bias"] = header["trunk.1.bias"], header["trunk.0.bias"]


def overlapping(header):
    header["trunk.0.bias"]["data_offsets"] = header["trunk.1.bias"]["data_offsets"]


def gap(header):
    for entry in header.values():
        if "data_offsets" in entry:
            entry["data_offsets"] = [x + 4 for x in entry["data_offsets"]]


def doubled(path):
    header, _, body = parts(path)
    text = json.dumps(header)[:-1] + ', "trunk.0.bias": ' + json.dumps(header["trunk.0.bias"]) + "}"
    return assemble(text.encode(), body)


def not_finite(path):
    header, _, body = parts(path)
    begin = header["trunk.0.weight"]["data_offsets"][0]
    body = body[:begin] + struct.pack("<f", float("nan")) + body[begin + 4 :]
    signed = with_document(lambda _: None)
    path.write_bytes(assemble(header, body))
    return signed(path)


def wide_layer(document):
    document["trunk"][0]["out"] = document["trunk"][1]["in"] = 1 << 16


B, T = "trunk.0.bias", "trunk.0.weight"
HOSTILE = {
    "empty file": (lambda _: b"", "too few"),
    "seven bytes": (lambda _: b"\0" * 7, "too few"),
    "header of no bytes": (lambda _: struct.pack("<Q", 0), "claims 0"),
    "header of all bytes": (lambda _: b"\xff" * 8 + b"{}", "claims"),
    "header of 1 MiB and 1": (lambda _: struct.pack("<Q", (1 << 20) + 1) + b" " * ((1 << 20) + 1), "claims"),
    "header longer than the file": (lambda _: struct.pack("<Q", 5000) + b"{}", "cut short"),
    "pickle": (lambda _: b"\x80\x04\x95" + b"c" * 100, "claims"),
    "zip (a torch file)": (lambda _: b"PK\x03\x04" + b"\0" * 100, "claims"),
    "header not UTF-8": (raw_header(b'{"\xff": 1}'), "not valid JSON"),
    "header in UTF-16": (lambda path: assemble(json.dumps(parts(path)[0]).encode("utf-16"), parts(path)[2]), "JSON"),
    "header not JSON": (raw_header(b"{" * 10), "not valid JSON"),
    "header nested 100,000 deep": (raw_header(b"[" * 100_000 + b"]" * 100_000), "nested|JSON"),
    "header with a number of 100,000 digits": (raw_header(b'{"a": ' + b"9" * 100_000 + b"}"), "not valid JSON"),
    "header a list": (raw_header(b"[]"), "not a JSON object"),
    "header empty": (raw_header(b"{}"), "holds"),
    "header with NaN": (raw_header(b'{"a": NaN}'), "not valid JSON"),
    "tensor twice": (doubled, "twice"),
    "metadata a list": (with_header(put("__metadata__", value=[])), "map of strings"),
    "metadata a number": (with_header(put("__metadata__", KEY, value=3)), "map of strings"),
    "metadata missing": (with_header(drop("__metadata__")), "not a bundle"),
    "metadata of another tool": (with_header(put("__metadata__", value={"format": "pt"})), "not a bundle"),
    "metadata with more": (with_header(put("__metadata__", "code", value="import os")), "not a bundle"),
    "tensor a number": (with_header(put(B, value=3)), "must have dtype"),
    "tensor with more fields": (with_header(put(B, "code", value="x")), "must have dtype"),
    "tensor without shape": (with_header(drop(B, "shape")), "must have dtype"),
    "dtype BF16": (with_header(put(B, "dtype", value="BF16")), "F32 only"),
    "dtype of another kind": (with_header(put(B, "dtype", value=["F32"])), "F32 only"),
    "shape negative": (with_header(put(B, "shape", value=[-2])), "positive"),
    "shape with zero": (with_header(put(B, "shape", value=[0])), "positive"),
    "shape a float": (with_header(put(B, "shape", value=[2.0])), "positive"),
    "shape with a bool": (with_header(put(B, "shape", value=[True, 2])), "positive"),
    "shape empty": (with_header(put(B, "shape", value=[])), "positive"),
    "shape of 2^60": (with_header(put(B, "shape", value=[1 << 60])), "positive"),
    "shape whose product is 2^64": (with_header(put(T, "shape", value=[1 << 32, 1 << 32])), "needs"),
    "shape of 32 dims": (with_header(put(B, "shape", value=[1] * 31 + [2])), "positive"),
    "offsets negative": (with_header(put(B, "data_offsets", value=[-8, 0])), "two integers"),
    "offsets reversed": (with_header(put(B, "data_offsets", value=[8, 0])), "takes -8"),
    "offsets three": (with_header(put(B, "data_offsets", value=[0, 8, 16])), "two integers"),
    "offsets past the end": (with_header(put(B, "data_offsets", value=[1 << 40, (1 << 40) + 8])), "gap"),
    "offsets too short": (with_header(put(B, "data_offsets", value=[0, 4])), "needs"),
    "offsets overlap": (with_header(overlapping), "overlap|holds"),
    "gap at the start": (with_header(gap), "gap"),
    "tensor unknown": (with_header(renamed), "missing, unknown"),
    "tensor missing": (lambda path: _without_last(path), "missing, unknown"),
    "tensors swapped": (with_header(swapped), "SHA-256"),
    "NaN weight": (not_finite, "NaN"),
    "document not JSON": (with_text(lambda text: text[:-1]), "not valid JSON"),
    "document a list": (with_text(lambda _: "[]"), "format"),
    "document empty": (with_text(lambda _: "{}"), "format"),
    "document with a key twice": (with_text(lambda text: '{"format":1,' + text[1:]), "twice"),
    "document with spaces": (with_text(lambda text: text.replace(",", ", ")), "canonical"),
    "document with NaN": (with_text(lambda text: text.replace('"pairs":50', '"pairs":NaN')), "not valid JSON"),
    "document with 1e999": (with_text(lambda text: text.replace('"pairs":50', '"pairs":1e999')), "canonical"),
    "document with other pairs, unsigned": (with_text(lambda text: text.replace('"pairs":50', '"pairs":51')), "SHA"),
    "document without digest": (with_document(drop("sha256")), "sha256"),
    "digest in capitals": (
        with_text(lambda t: t.replace(json.loads(t)["sha256"], json.loads(t)["sha256"].upper())),
        "SHA",
    ),
    "format of the future": (with_document(put("format", value=2)), "update fct_fast"),
    "format true": (with_document(put("format", value=True)), "format"),
    "field unknown": (with_document(put("code", value="import os")), "code"),
    "old_dim missing": (with_document(drop("old_dim")), "old_dim"),
    "old_dim 0": (with_document(put("old_dim", value=0)), "old_dim"),
    "old_dim huge": (with_document(put("old_dim", value=1 << 40)), "old_dim"),
    "old_dim a string": (with_document(put("old_dim", value="2")), "old_dim"),
    "old_dim true": (with_document(put("old_dim", value=True)), "old_dim"),
    "old_dim another": (with_document(put("old_dim", value=3)), "given 3"),
    "side_dim 0 with a side branch": (with_document(put("side_dim", value=0)), "side_dim"),
    "new_dim another": (with_document(put("new_dim", value=3)), "trunk ends"),
    "normalize a number": (with_document(put("normalize", value=1)), "normalize"),
    "uncertainty claimed": (with_document(put("uncertainty", value=True)), "uncertainty"),
    "branches a map": (with_document(put("branches", value={})), "branches"),
    "no branch": (with_document(put("branches", value=[])), "missing, unknown"),
    "a branch that reads a file": (with_document(put("branches", 0, "input", value="/etc/passwd")), "'old' or 'side'"),
    "a branch that is a list": (with_document(put("branches", 0, value=[])), "branches"),
    "no trunk": (with_document(put("trunk", value=[])), "missing, unknown"),
    "100 branches": (with_document(put("branches", value=[{"input": "old", "layers": []}] * 100)), "at most"),
    "layer with more fields": (with_document(put("trunk", 0, "code", value="x")), "layer must be"),
    "layer out another": (with_document(put("trunk", 0, "out", value=3)), "another shape"),
    "layer wider than the file": (with_document(wide_layer), "another shape"),
    "layer relu a string": (with_document(put("trunk", 0, "relu", value="yes")), "layer must be"),
    "spaces a list": (with_document(put("spaces", value=[])), "spaces"),
    "space unknown": (with_document(put("spaces", "other", value={})), "fingerprint"),
    "space of another width": (with_document(lambda d: d["spaces"].update(old=d["spaces"]["side"])), "width"),
    "space with a control sequence": (with_document(put("spaces", "old", "model_id", value="\x1b[2J")), "printable"),
    "space with a huge mean": (with_document(put("spaces", "old", "mean", value=[1e300, 0])), "finite"),
    "scales of another layer": (with_document(put("scales", "activation_max", value={"x": [1]})), "activation_max"),
    "scales negative": (with_document(put("scales", "activation_max", "trunk.0", value=[-1, 1])), "activation_max"),
    "training a string": (with_document(put("training", value="x")), "training"),
}


def _without_last(path):
    header, _, body = parts(path)
    last = max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    begin = header.pop(last)["data_offsets"][0]
    return assemble(header, body[:begin])


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case, tiny):
    make, match = HOSTILE[case]
    path = tiny[0]
    data = make(path)
    path.write_bytes(data)
    refuses(path, match)


def test_the_tools_of_these_tests_make_good_files_too(tiny):
    """Else the cases above could pass because the file was broken in another way."""
    for make in (with_header(lambda _: None), with_document(lambda _: None), with_text(lambda text: text)):
        tiny[0].write_bytes(make(tiny[0]))
        assert read_bundle(tiny[0]) == tiny[1]


def test_a_hostile_file_costs_no_more_memory_than_its_size(tiny):
    header, _, _ = parts(tiny[0])
    header[T] = {"dtype": "F32", "shape": [1 << 16, 1 << 16], "data_offsets": [0, 1 << 34]}
    tiny[0].write_bytes(assemble(header, b""))
    with tiny[0].open("r+b") as file:
        file.truncate(1 << 34)  # sparse: 16 GiB on paper
    tracemalloc.start()
    refuses(tiny[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
