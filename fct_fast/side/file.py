"""A codec on disk: one safetensors file, read with trust in nothing, with no code in it.

Its tensors are the parameters of the steps; its metadata holds one JSON document with the codec's spec and width and a
SHA-256 over all.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from fct_fast.errors import BundleError, ConfigError, FctError
from fct_fast.fs import write_atomic
from fct_fast.side.arrays import F32
from fct_fast.side.codec import Codec, Quantiser, parse_spec
from fct_fast.side.product import Product
from fct_fast.side.reduce import PCA, Reduction, Truncation
from fct_fast.side.scalar import Binary, Float32, Int8
from fct_fast.space import canonical_json
from fct_fast.tensorfile import open_regular, parse_json, read_header, read_tensors, serialize

__all__ = ["load_codec", "save_codec"]

FORMAT = 1
METADATA_KEY = "fct_fast_side"
MAX_DIM = 1 << 16


def save_codec(codec: Codec, path: str | os.PathLike[str]) -> None:
    """Write the codec, atomically and durably; the same codec gives the same bytes. Raises StoreError where the file
    cannot be written, ConfigError for a codec that no file can hold."""
    tensors = _tensors(codec)
    document = {"format": FORMAT, "dim": codec.dim, "spec": codec.spec}
    text = canonical_json({**document, "sha256": _digest(document, tensors)}).decode()
    data = serialize(tensors, {METADATA_KEY: text})
    try:
        _read(io.BytesIO(data), len(data))  # what cannot be read back is never written
    except FctError as error:
        raise ConfigError(f"this codec does not fit into a file: {error}") from None
    write_atomic(path, data)


def load_codec(path: str | os.PathLike[str]) -> Codec:
    """Read a codec that `save_codec` wrote; it gives the same codes and rows, bit for bit.

    Raises BundleError, with a sentence, for anything else: a missing or special file, one that was cut short, damaged
    or made by hand to be harmful, a newer format.
    """
    with open_regular(path) as stream:
        try:
            return _read(stream, os.fstat(stream.fileno()).st_size)
        except (FctError, OSError) as error:
            raise BundleError(f"{os.fspath(path)}: {error}") from None


def _read(stream: BinaryIO, size: int) -> Codec:
    header = read_header(stream, size)
    if set(header.metadata) != {METADATA_KEY}:
        raise BundleError("the file is no codec of side-information: its metadata says so nowhere")
    document = parse_json(header.metadata[METADATA_KEY], "the codec's document")
    if not isinstance(document, dict) or document.get("format") != FORMAT or type(document["format"]) is not int:
        raise BundleError(f"the codec's document is not of format {FORMAT}; update fct_fast, or check the file")
    if {key: type(value) for key, value in document.items()} != {"format": int, "dim": int, "spec": str, "sha256": str}:
        raise BundleError("the codec's document must have format, dim, spec and sha256 and nothing else")
    if not 1 <= document["dim"] <= MAX_DIM or len(document["spec"]) > 256:
        raise BundleError(f"the codec's dim must be 1 to {MAX_DIM} and its spec short")
    tensors = read_tensors(stream, header)
    digest = document.pop("sha256")
    if _digest(document, tensors) != digest:
        raise BundleError("the codec's digest is wrong: the file is damaged or was changed by hand")
    codec = _built(document["spec"], document["dim"], dict(tensors))
    if codec.spec != document["spec"] or codec.dim != document["dim"]:
        raise BundleError(f"the file says {document['spec']!r:.80}, but its tensors make {codec.spec!r:.80}")
    return codec


def _built(spec: str, dim: int, tensors: dict[str, F32]) -> Codec:
    """The codec of a spec from its tensors, all of which must be used."""

    def take(name: str) -> F32:
        if name not in tensors:
            raise BundleError(f"the codec's tensor {name!r:.80} is missing")
        return tensors.pop(name)

    reductions_spec, (last, groups) = parse_spec(spec)
    reductions: list[Reduction] = []
    for at, (kind, dims) in enumerate(reductions_spec):
        step: Reduction
        step = PCA(take(f"{at}.mean"), take(f"{at}.components")) if kind == "pca" else Truncation(dim, dims)
        reductions.append(step)
        dim = dims
    at = len(reductions)
    quantiser: Quantiser
    if last == "pq":
        if groups > len(tensors):  # before a hostile count is walked through
            raise BundleError(f"the codec has {len(tensors)} codebooks, its spec asks for {groups}")
        quantiser = Product(tuple(take(f"{at}.codebook.{group}") for group in range(groups)))
    elif last == "int8":
        quantiser = Int8(take(f"{at}.centre"), take(f"{at}.scale"))
    elif last == "binary":
        quantiser = Binary(take(f"{at}.threshold"), take(f"{at}.low"), take(f"{at}.high"))
    else:
        quantiser = Float32(dim)
    if tensors:
        raise BundleError(f"the codec has a tensor that it does not use: {sorted(tensors)[0]!r:.80}")
    return Codec(tuple(reductions), quantiser)


def _tensors(codec: Codec) -> dict[str, F32]:
    steps = (*codec.reductions, codec.quantiser)
    return {f"{at}.{name}": value for at, step in enumerate(steps) for name, value in step.tensors().items()}


def _digest(document: Mapping[str, Any], tensors: Mapping[str, F32]) -> str:
    """SHA-256 over the canonical document without its own digest, then name, shape and values of each tensor."""
    sha = hashlib.sha256(canonical_json(document))
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name], "<f4")
        sha.update(canonical_json([name, list(tensor.shape)]))
        sha.update(tensor.tobytes())
    return sha.hexdigest()
