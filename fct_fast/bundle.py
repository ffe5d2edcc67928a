"""The bundle: h on disk, with what is needed to run it safely.

One safetensors file. Its tensors are the folded weights and biases of a `TransformSpec`; its metadata holds one JSON
document (canonical: sorted keys, no spaces, ASCII) with the structure, the precision scales, the fingerprints of the
spaces, a summary of the training, and a SHA-256 over all of it and the weights. Reading needs numpy only and runs no
code from the file.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from fct_fast.errors import BundleError, ConfigError, FctError
from fct_fast.fs import write_atomic
from fct_fast.space import SpaceFingerprint, canonical_json
from fct_fast.spec import Branch, Layer, TransformSpec
from fct_fast.tensorfile import F32, open_regular, parse_json, read_header, read_tensors, serialize

if TYPE_CHECKING:
    from fct_fast.transform import ForwardTransform

__all__ = ["FORMAT", "Bundle", "load", "read_bundle", "save", "write_bundle"]

FORMAT = 1
METADATA_KEY = "fct_fast"
MAX_DIM = 1 << 16
MAX_LAYERS = 64

_FIELDS = {
    "format", "old_dim", "side_dim", "new_dim", "branches", "trunk", "normalize", "uncertainty",
    "spaces", "scales", "training", "sha256",
}  # fmt: skip


@dataclass(frozen=True)
class Bundle:
    """What a bundle file holds; `Bundle.of` makes one in memory.

    spec: h. spaces: fingerprints by "old", "side" and "new"; a space that was never measured is absent. scales: empty,
    or {"activation_max": {layer name: [largest output per channel]}, "rows": rows measured} of the layers with ReLU,
    for int8 and fp16 kernels. training: plain JSON values (pairs, config, metrics). digest: SHA-256 (hex) over all.
    """

    spec: TransformSpec
    spaces: dict[str, SpaceFingerprint] = field(default_factory=dict)
    scales: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    digest: str = ""

    @classmethod
    def of(
        cls,
        spec: TransformSpec,
        spaces: Mapping[str, SpaceFingerprint] | None = None,
        scales: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> Bundle:
        """A bundle in memory, its digest computed. Raises ConfigError for spaces or scales that do not fit the spec."""
        bundle = cls(spec, dict(spaces or {}), dict(scales or {}), dict(training or {}))
        _check_spaces(spec, bundle.spaces)
        _check_scales(spec, bundle.scales)
        try:
            return replace(bundle, digest=_digest(_document(bundle), _tensors(spec)))
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"scales and training of a bundle must be plain, finite JSON values: {error}") from None


class Fitted(Protocol):
    """What `save` takes from a fit (see `fct_fast.training.FitResult`)."""

    @property
    def transform(self) -> ForwardTransform: ...
    @property
    def spaces(self) -> dict[str, SpaceFingerprint]: ...
    @property
    def scales(self) -> dict[str, Any]: ...
    @property
    def summary(self) -> dict[str, Any]: ...


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and check a bundle file; numpy only.

    Raises BundleError, with a sentence, for anything but an intact bundle: a missing or special file, a symbolic link,
    a file that was cut short, damaged or made by hand to be harmful, a newer format.
    """
    with open_regular(path) as stream:
        try:
            return _read(stream, os.fstat(stream.fileno()).st_size)
        except (FctError, OSError) as error:
            raise BundleError(f"{os.fspath(path)}: {error}") from None


def write_bundle(
    path: str | os.PathLike[str],
    *,
    spec: TransformSpec,
    spaces: Mapping[str, SpaceFingerprint] | None = None,
    scales: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write a bundle file, atomically and durably, and return what `read_bundle` would.

    The same input gives the same bytes. Raises ConfigError for content that does not fit together or is no plain JSON,
    StoreError where the file cannot be written (an older file at `path` then stays as it was).
    """
    bundle = Bundle.of(spec, spaces, scales, training)
    document = {**_document(bundle), "sha256": bundle.digest}
    data = serialize(_tensors(spec), {METADATA_KEY: canonical_json(document).decode()})
    try:
        checked = _read(io.BytesIO(data), len(data))  # what cannot be read back is never written
    except BundleError as error:
        raise ConfigError(f"this transform does not fit into a bundle: {error}") from None
    write_atomic(path, data)
    return checked


def save(
    source: Fitted | ForwardTransform | TransformSpec,
    path: str | os.PathLike[str],
    *,
    old_space: str = "",
    side_space: str = "",
    new_space: str = "",
    spaces: Mapping[str, SpaceFingerprint] | None = None,
) -> Bundle:
    """Save a fit, a ForwardTransform or a TransformSpec as a bundle.

    old_space, side_space, new_space: model ids, written into the fingerprints. spaces: fingerprints by "old", "side",
    "new"; by default those of the fit, or those that a loaded transform brought along. A fit also brings its scales and
    its training summary. Raises ConfigError where a model id is given for a space without statistics.
    """
    transform: Any = getattr(source, "transform", source)
    spec = transform if isinstance(transform, TransformSpec) else transform.to_spec()
    named = dict(getattr(source, "spaces", {}) if spaces is None else spaces)
    for key, model_id in {"old": old_space, "side": side_space, "new": new_space}.items():
        if not model_id:
            continue
        if key not in named:
            raise ConfigError(
                f"{key}_space names {model_id!r}, but there are no statistics of that space; "
                f"pass spaces={{{key!r}: SpaceFingerprint.measure(rows)}} too"
            )
        named[key] = replace(named[key], model_id=model_id)
    scales, training = getattr(source, "scales", None), getattr(source, "summary", None)
    return write_bundle(path, spec=spec, spaces=named, scales=scales, training=training)


def load(path: str | os.PathLike[str]) -> ForwardTransform:
    """The transform of a bundle file, in eval mode; its `spaces` hold the fingerprints. Raises BundleError."""
    from fct_fast.transform import ForwardTransform

    bundle = read_bundle(path)
    h = ForwardTransform.from_spec(bundle.spec)
    h.spaces = dict(bundle.spaces)
    return h


def _document(bundle: Bundle) -> dict[str, Any]:
    """The JSON document, without the digest."""
    spec = bundle.spec
    return {
        "format": FORMAT,
        "old_dim": int(spec.old_dim),
        "side_dim": int(spec.side_dim),
        "new_dim": int(spec.new_dim),
        "branches": [{"input": branch.input, "layers": _described(branch.layers)} for branch in spec.branches],
        "trunk": _described(spec.trunk),
        "normalize": bool(spec.normalize),
        "uncertainty": bool(spec.uncertainty),
        "spaces": {key: space.to_json() for key, space in bundle.spaces.items()},
        "scales": bundle.scales,
        "training": bundle.training,
    }


def _described(layers: tuple[Layer, ...]) -> list[dict[str, Any]]:
    return [{"in": layer.in_dim, "out": layer.out_dim, "relu": layer.relu} for layer in layers]


def _tensors(spec: TransformSpec) -> dict[str, F32]:
    tensors: dict[str, F32] = {}
    for name, layer in spec.named_layers():
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = layer.weight, layer.bias
    return tensors


def _digest(document: dict[str, Any], tensors: Mapping[str, F32]) -> str:
    """SHA-256 over the canonical document without its own digest, then each tensor in the order of the spec."""
    sha = hashlib.sha256(canonical_json({key: value for key, value in document.items() if key != "sha256"}))
    for tensor in tensors.values():
        sha.update(tensor.astype("<f4", order="C", copy=False).tobytes())
    return sha.hexdigest()


def _read(stream: BinaryIO, size: int) -> Bundle:
    header = read_header(stream, size)
    if set(header.metadata) != {METADATA_KEY}:
        raise BundleError("this safetensors file is not a bundle of fct_fast (its metadata holds no such document)")
    text = header.metadata[METADATA_KEY]
    document = parse_json(text, "the bundle's document")
    _check_document(document, text)
    declared = _declared_shapes(document)
    if declared != header.shapes:
        wrong = sorted(set(declared.items()) ^ set(header.shapes.items()))[0][0]
        raise BundleError(f"tensor {wrong!r:.80} is missing, unknown or of another shape than the document declares")
    tensors = read_tensors(stream, header)
    if _digest(document, {name: tensors[name] for name in declared}) != document["sha256"]:
        raise BundleError("the bundle's SHA-256 does not match its content: the file is damaged or was changed")
    try:
        spec = TransformSpec(
            old_dim=document["old_dim"],
            side_dim=document["side_dim"],
            new_dim=document["new_dim"],
            branches=tuple(
                Branch(branch["input"], _layers(f"branches.{b}", branch["layers"], tensors))
                for b, branch in enumerate(document["branches"])
            ),
            trunk=_layers("trunk", document["trunk"], tensors),
            normalize=document["normalize"],
            uncertainty=document["uncertainty"],
        )
        spaces = {key: SpaceFingerprint.from_json(space) for key, space in document["spaces"].items()}
        _check_spaces(spec, spaces)
        _check_scales(spec, document["scales"])
    except FctError as error:
        raise BundleError(str(error)) from None
    return Bundle(spec, spaces, document["scales"], document["training"], document["sha256"])


def _check_document(document: Any, text: str) -> None:
    """Fields, types and bounds; after this the document can be indexed without surprises."""
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise BundleError("the bundle's document names no format version")
    if document["format"] != FORMAT:
        raise BundleError(f"the bundle has format {document['format']}, this version reads {FORMAT}; update fct_fast")
    if set(document) != _FIELDS:
        odd = sorted(_FIELDS ^ set(document))[0]
        raise BundleError(f"the bundle's document lacks a field or has one too many: {odd!r:.80}")
    try:
        canonical = canonical_json(document).decode() == text
    except (ValueError, RecursionError):
        canonical = False
    if not canonical:
        raise BundleError("the bundle's document is not in canonical form; it was changed by hand")
    for name, least in (("old_dim", 1), ("side_dim", 0), ("new_dim", 1)):
        _check_dim(name, document[name], least)
    for name in ("normalize", "uncertainty"):
        if type(document[name]) is not bool:
            raise BundleError(f"{name} must be true or false")
    for name in ("spaces", "scales", "training"):
        if not isinstance(document[name], dict):
            raise BundleError(f"{name} must be a JSON object")
    branches = document["branches"]
    if not isinstance(branches, list) or not all(_has_fields(x, {"input", "layers"}) for x in branches):
        raise BundleError("branches must be a list of {input, layers}")
    if not all(branch["input"] in ("old", "side") for branch in branches):
        raise BundleError("a branch must read 'old' or 'side'")
    stacks = [*(branch["layers"] for branch in branches), document["trunk"]]
    if not all(isinstance(stack, list) for stack in stacks) or sum(map(len, stacks)) + len(branches) > MAX_LAYERS:
        raise BundleError(f"layers must be lists, and branches and layers at most {MAX_LAYERS}")
    for layer in (layer for stack in stacks for layer in stack):
        if not _has_fields(layer, {"in", "out", "relu"}) or type(layer["relu"]) is not bool:
            raise BundleError("a layer must be {in, out, relu}")
        _check_dim("a layer's in", layer["in"], 1)
        _check_dim("a layer's out", layer["out"], 1)


def _check_dim(name: str, value: object, least: int) -> None:
    if type(value) is not int or not least <= value <= MAX_DIM:
        raise BundleError(f"{name} must be an integer from {least} to {MAX_DIM}, got {value!r:.40}")


def _has_fields(value: object, names: set[str]) -> bool:
    return isinstance(value, dict) and set(value) == names


def _declared_shapes(document: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape, in the order of `TransformSpec.named_layers`."""
    shapes: dict[str, tuple[int, ...]] = {}
    stacks = {f"branches.{b}": branch["layers"] for b, branch in enumerate(document["branches"])}
    for stack, layers in {**stacks, "trunk": document["trunk"]}.items():
        for i, layer in enumerate(layers):
            shapes[f"{stack}.{i}.weight"] = (layer["out"], layer["in"])
            shapes[f"{stack}.{i}.bias"] = (layer["out"],)
    return shapes


def _layers(stack: str, described: list[dict[str, Any]], tensors: Mapping[str, F32]) -> tuple[Layer, ...]:
    return tuple(
        Layer(tensors[f"{stack}.{i}.weight"], tensors[f"{stack}.{i}.bias"], layer["relu"])
        for i, layer in enumerate(described)
    )


def _check_spaces(spec: TransformSpec, spaces: Mapping[str, SpaceFingerprint]) -> None:
    dims = {"old": spec.old_dim, "side": spec.side_dim, "new": spec.new_dim}
    for key, space in spaces.items():
        if key not in dims or space.dim != dims[key]:
            raise ConfigError(
                f"the space {key!r:.40} has width {space.dim}; this transform has "
                f"old {spec.old_dim}, side {spec.side_dim} and new {spec.new_dim}"
            )


def _check_scales(spec: TransformSpec, scales: Mapping[str, Any]) -> None:
    if not scales:
        return
    if set(scales) != {"activation_max", "rows"} or type(scales["rows"]) is not int or scales["rows"] < 1:
        raise ConfigError("scales must hold activation_max and the number of rows they were measured on")
    hidden = {name: layer.out_dim for name, layer in spec.named_layers() if layer.relu}
    maxima = scales["activation_max"]
    if not isinstance(maxima, dict) or set(maxima) != set(hidden):
        raise ConfigError("activation_max must name exactly the layers with ReLU")
    for name, values in maxima.items():
        if not isinstance(values, list) or len(values) != hidden[name] or not all(_is_scale(x) for x in values):
            raise ConfigError(f"activation_max of {name} must be {hidden[name]} finite numbers, none below zero")


def _is_scale(x: object) -> bool:
    return type(x) in (int, float) and 0 <= x < 3.5e38  # type: ignore[operator]
