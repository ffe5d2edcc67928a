"""A safetensors file of float32 tensors, read with trust in nothing.

The file is opened once and never mapped. Its header is checked in full (length, JSON, names, shapes, offsets, total
size) before a byte of tensor data is read, so that a hostile file costs no more memory than its own size. Format:
https://github.com/huggingface/safetensors, restricted here to dtype F32 and a header of at most 1 MiB. Needs numpy
only.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fct_fast.errors import BundleError

__all__ = ["MAX_HEADER", "TensorHeader", "open_regular", "parse_json", "read_header", "read_tensors", "serialize"]

MAX_HEADER = 1 << 20
MAX_NDIM = 2

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorHeader:
    """What the head of a file says, already proven consistent: where each tensor lies in the data that follows."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    begins: dict[str, int]
    data_bytes: int


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; BundleError for a missing file, folder, symbolic link, pipe or device."""
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BundleError(f"there is no file {os.fspath(path)}; check the path") from None
    except (OSError, ValueError) as error:
        if os.path.islink(path):  # noqa: PTH114
            raise BundleError(f"{os.fspath(path)} is a symbolic link; give the path of the file itself") from None
        raise BundleError(f"cannot open {os.fspath(path)}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BundleError(f"{os.fspath(path)} is not a regular file; give the path of a bundle file")
    return os.fdopen(fd, "rb")


def read_header(stream: BinaryIO, size: int) -> TensorHeader:
    """Read and check the header at the start of a stream of `size` bytes. Raises BundleError."""
    prefix = stream.read(8)
    if len(prefix) != 8:
        raise BundleError(f"the file holds {size} bytes, too few for a bundle; it was cut short or is something else")
    length = int.from_bytes(prefix, "little")
    if not 2 <= length <= MAX_HEADER:
        raise BundleError(f"the header claims {length} bytes, allowed are 2 to {MAX_HEADER}; this is not a bundle")
    if length > size - 8:
        raise BundleError(f"the header claims {length} bytes, but the file holds {size}; it was cut short")
    raw = stream.read(length)
    if len(raw) != length:
        raise BundleError("the file ends inside its header; it was cut short")
    document = parse_json(raw, "the header")
    if not isinstance(document, dict):
        raise BundleError("the header is not a JSON object; this is not a bundle")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BundleError("the header's metadata is not a map of strings")
    shapes, spans = {}, []
    for name, entry in document.items():
        shapes[name], begin, end = _checked_entry(name, entry)
        spans.append((begin, end, name))
    data_bytes = 0
    for begin, end, name in sorted(spans):
        if begin != data_bytes:
            raise BundleError(f"tensor {name!r:.80} starts at byte {begin}, expected {data_bytes}: a gap or an overlap")
        data_bytes = end
    if 8 + length + data_bytes != size:
        raise BundleError(f"the file holds {size} bytes, but its header describes {8 + length + data_bytes}")
    return TensorHeader(metadata, shapes, {name: begin for begin, _, name in spans}, data_bytes)


def read_tensors(stream: BinaryIO, header: TensorHeader) -> dict[str, F32]:
    """The tensors behind the header, writable arrays over one buffer. Raises BundleError where the data end early."""
    buffer = bytearray(header.data_bytes)
    view, done = memoryview(buffer), 0
    while done < len(buffer):
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise BundleError("the file ends inside its tensors; it was cut short while it was read")
        done += count
    return {
        name: np.frombuffer(buffer, "<f4", math.prod(shape), header.begins[name]).reshape(shape)
        for name, shape in header.shapes.items()
    }


def serialize(tensors: Mapping[str, F32], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file with these tensors; the same input gives the same bytes."""
    from safetensors.numpy import save  # not needed by a worker that only reads

    return bytes(save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, dict(metadata)))


def parse_json(raw: bytes | str, where: str) -> Any:
    """JSON as RFC 8259 has it: no duplicate keys, no NaN or Infinity. Raises BundleError."""
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw  # json.loads would take UTF-16 too
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise BundleError(f"{where} is nested too deeply") from None
    except ValueError as error:
        raise BundleError(
            f"{where} is not valid JSON ({str(error)[:120]}); the file is damaged or is no bundle"
        ) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key appears twice")
    return document


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def _checked_entry(name: str, entry: object) -> tuple[tuple[int, ...], int, int]:
    """Shape, begin and end of a tensor whose dtype, shape and length agree."""
    where = f"tensor {name!r:.80}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BundleError(f"{where} must have dtype, shape and data_offsets and nothing else")
    if entry["dtype"] != "F32":
        raise BundleError(f"{where} has dtype {entry['dtype']!r:.40}; a bundle holds F32 only")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _naturals(shape) or not 1 <= len(shape) <= MAX_NDIM or 0 in shape:
        raise BundleError(f"{where} has the shape {shape!r:.80}; want one or two positive integers")
    if not _naturals(offsets) or len(offsets) != 2:
        raise BundleError(f"{where} has the offsets {offsets!r:.80}; want two integers")
    begin, end = offsets
    if end - begin != 4 * math.prod(shape):
        raise BundleError(
            f"{where} takes {end - begin} bytes, but its shape {shape!r:.80} needs {4 * math.prod(shape)}"
        )
    return tuple(shape), begin, end


def _naturals(values: object) -> bool:
    return isinstance(values, list) and all(type(x) is int and 0 <= x < 1 << 48 for x in values)
