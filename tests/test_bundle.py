"""A bundle gives back exactly what went in, and content that does not fit is refused before it is written."""

import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import torch

import fct_fast
from fct_fast.bundle import Bundle, load, read_bundle, save, write_bundle
from fct_fast.errors import ConfigError, StoreError
from fct_fast.space import SpaceFingerprint
from fct_fast.spec import Branch, Layer, TransformSpec
from fct_fast.transform import ForwardTransform


def layer(out, into, relu=True, seed=0):
    rng = np.random.default_rng(seed)
    return Layer(rng.normal(size=(out, into)).astype(np.float32), rng.normal(size=out).astype(np.float32), relu)


def tiny_spec(**changes):
    fields = {
        "old_dim": 2,
        "side_dim": 1,
        "new_dim": 2,
        "branches": (Branch("old", (layer(2, 2),)), Branch("side", ())),
        "trunk": (layer(2, 3, seed=1), layer(2, 2, relu=False, seed=2)),
    }
    return TransformSpec(**{**fields, **changes})


def spaces_of(spec):
    rng = np.random.default_rng(5)
    dims = {"old": spec.old_dim, "side": spec.side_dim, "new": spec.new_dim}
    return {
        key: SpaceFingerprint.measure(rng.normal(size=(50, d)), model_id=f"m-{key}") for key, d in dims.items() if d
    }


@pytest.fixture
def tiny(tmp_path):
    """A small bundle with everything in it."""
    spec = tiny_spec()
    path = tmp_path / "h.safetensors"
    scales = {"activation_max": {"branches.0.0": [0.5, 1.25], "trunk.0": [3.0, 0.0]}, "rows": 50}
    bundle = write_bundle(path, spec=spec, spaces=spaces_of(spec), scales=scales, training={"pairs": 50, "loss": [0.1]})
    return path, bundle


# ---- what goes in comes out


SPECS = {
    "tiny": tiny_spec(),
    "ridge": TransformSpec(3, 2, 4, (Branch("old", ()), Branch("side", ())), (layer(4, 5, relu=False),)),
    "no side": TransformSpec(3, 0, 4, (Branch("old", (layer(6, 3),)),), (layer(4, 6, relu=False),), normalize=False),
    "three branches": TransformSpec(
        3,
        2,
        4,
        (Branch("old", (layer(6, 3),)), Branch("side", ()), Branch("old", ())),
        (layer(5, 11, relu=False),),
        uncertainty=True,
    ),
    "deep": tiny_spec(trunk=(layer(2, 3), *(layer(2, 2, seed=i) for i in range(12)), layer(2, 2, relu=False))),
    "linear hidden, relu last": tiny_spec(trunk=(layer(2, 3, relu=False), layer(2, 2, relu=True))),
}


@pytest.mark.parametrize("name", SPECS)
def test_round_trip_is_exact(name, tmp_path):
    spec, path = SPECS[name], tmp_path / "h.safetensors"
    spaces, training = spaces_of(spec), {"pairs": 7, "metrics": {"r2": 0.25, "note": "é\u2028\U0001f600"}, "loss": []}
    written = write_bundle(path, spec=spec, spaces=spaces, training=training)
    back = read_bundle(path)
    assert back == written == Bundle.of(spec, spaces, training=training)
    assert back.spec == spec
    assert back.spaces == spaces
    assert back.training == training
    assert len(back.digest) == 64
    for (_, a), (_, b) in zip(back.spec.named_layers(), spec.named_layers(), strict=True):
        assert a.weight.tobytes() == b.weight.tobytes()  # also signs of zero
        assert a.bias.tobytes() == b.bias.tobytes()


def test_a_transform_round_trips(tmp_path):
    torch.manual_seed(0)
    h = ForwardTransform(8, 6, 3, inner_dim=16, uncertainty=True)
    h.train()(torch.randn(64, 8), torch.randn(64, 3))  # moves the running statistics
    h.eval()
    path = tmp_path / "h.safetensors"
    bundle = save(h, path)
    back = load(path)
    assert not back.training
    assert back.spaces == {}
    old, side = torch.randn(10, 8), torch.randn(10, 3)
    torch.testing.assert_close(back(old, side), h(old, side), rtol=1e-5, atol=1e-6)
    again = save(back, tmp_path / "again.safetensors")
    assert again.digest == bundle.digest
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_the_public_names_and_fingerprints(tmp_path):
    h = ForwardTransform(8, 6, 3, inner_dim=16)
    spaces = spaces_of(h.to_spec())
    path = tmp_path / "h.safetensors"
    fct_fast.save(h, path, old_space="resnet-1", new_space="vit-2", spaces=spaces)
    back = fct_fast.load(path)
    assert {key: space.model_id for key, space in back.spaces.items()} == {
        "old": "resnet-1",
        "side": "m-side",
        "new": "vit-2",
    }
    fct_fast.save(back, path, side_space="simclr")  # the fingerprints travel on with a loaded transform
    assert fct_fast.load(path).spaces["side"].model_id == "simclr"
    assert np.array_equal(fct_fast.load(path).spaces["side"].mean, spaces["side"].mean)


def test_safetensors_itself_reads_the_same(tiny):
    path, bundle = tiny
    tensors = safetensors.numpy.load_file(path)
    expected = {
        f"{name}.{part}": getattr(x, part) for name, x in bundle.spec.named_layers() for part in ("weight", "bias")
    }
    assert tensors.keys() == expected.keys()
    assert all(np.array_equal(tensors[name], expected[name]) for name in tensors)


def test_same_content_same_bytes_and_an_older_file_is_replaced(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    b.write_bytes(b"something older")
    for path in (a, b):
        write_bundle(path, spec=tiny_spec(), training={"b": 1, "a": 2})
    assert a.read_bytes() == b.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_digest_sees_all_content():
    spec = tiny_spec()
    changed = Layer(-spec.trunk[0].weight, spec.trunk[0].bias, True)
    bundles = [
        Bundle.of(spec),
        Bundle.of(tiny_spec(normalize=False)),
        Bundle.of(tiny_spec(trunk=(changed, spec.trunk[1]))),
        Bundle.of(tiny_spec(trunk=(Layer(spec.trunk[0].weight, spec.trunk[0].bias, False), spec.trunk[1]))),
        Bundle.of(spec, training={"pairs": 1}),
        Bundle.of(spec, spaces_of(spec)),
        Bundle.of(spec, scales={"activation_max": {"branches.0.0": [1, 1], "trunk.0": [1, 1]}, "rows": 1}),
    ]
    assert len({bundle.digest for bundle in bundles}) == len(bundles)


def test_the_largest_transform_has_room_in_the_header(tmp_path):
    rng = np.random.default_rng(0)
    h = ForwardTransform(2048, 2048, 1024, inner_dim=64)
    spec = h.to_spec()
    wide = {name: rng.random(4096).astype(np.float32).tolist() for name in "ab"}  # stands for a trunk of 4096
    scales = {
        "activation_max": {
            n: rng.random(x.out_dim).astype(np.float32).tolist() for n, x in spec.named_layers() if x.relu
        },
        "rows": 1,
    }
    path = tmp_path / "h.safetensors"
    write_bundle(path, spec=spec, spaces=spaces_of(spec), scales=scales, training=wide)
    assert read_bundle(path).spec == spec


def test_reading_needs_no_torch(tiny):
    code = (
        "import sys; from fct_fast.bundle import read_bundle, write_bundle; b = read_bundle(sys.argv[1]);"
        "write_bundle(sys.argv[1], spec=b.spec, spaces=b.spaces); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, tiny[0]], check=False).returncode == 0


# ---- content that makes no bundle


@pytest.mark.parametrize(
    "content",
    [
        {"spaces": {"other": SpaceFingerprint.measure([[1.0, 2.0]])}},
        {"spaces": {"old": SpaceFingerprint.measure([[1.0, 2.0, 3.0]])}},
        {"training": {"x": object()}},
        {"training": {"x": float("nan")}},
        {"training": {1: "integer key", "1": "text key"}},
        {"training": {"x": "y" * (1 << 20)}},
        {"scales": {"activation_max": {}, "rows": 1}},
        {"scales": {"activation_max": {"branches.0.0": [1, 1], "trunk.0": [1, 1]}, "rows": 0}},
        {"scales": {"activation_max": {"branches.0.0": [1], "trunk.0": [1, 1]}, "rows": 1}},
        {"scales": {"activation_max": {"branches.0.0": [1, -1], "trunk.0": [1, 1]}, "rows": 1}},
        {"scales": {"activation_max": {"branches.0.0": [1, float("inf")], "trunk.0": [1, 1]}, "rows": 1}},
        {"scales": {"other": 1}},
    ],
)
def test_writing_refuses_what_could_not_be_read(content, tmp_path):
    with pytest.raises(ConfigError):
        write_bundle(tmp_path / "h.safetensors", spec=tiny_spec(), **content)
    assert not list(tmp_path.iterdir())


def test_a_model_id_needs_statistics(tmp_path):
    with pytest.raises(ConfigError, match="old_space names 'resnet'"):
        save(ForwardTransform(2, 2, inner_dim=2), tmp_path / "h.safetensors", old_space="resnet")


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(StoreError):
        write_bundle(tmp_path / "missing" / "h.safetensors", spec=tiny_spec())
