"""What Upgrader refuses, each with a typed error of one sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from upgrader_support import pair

from fct_fast import Upgrader, errors
from fct_fast.kernels import native
from fct_fast.spec import Branch, Layer, TransformSpec


class TestBadInput:
    @pytest.mark.parametrize(
        ("old", "side", "error", "words"),
        [
            (
                np.zeros((4, 11), np.float32),
                np.zeros((4, 5), np.float32),
                errors.ShapeError,
                "old has 11 values a row, expected 12",
            ),
            (
                np.zeros((4, 12), np.float32),
                np.zeros((4, 6), np.float32),
                errors.ShapeError,
                "side has 6 values a row, expected 5",
            ),
            (
                np.zeros((4, 12), np.float32),
                np.zeros((3, 5), np.float32),
                errors.ShapeError,
                "old has 4 rows and side has 3",
            ),
            (np.zeros((4, 12), np.float32), None, errors.ShapeError, "side is missing"),
            (np.zeros(12, np.float32), np.zeros((1, 5), np.float32), errors.ShapeError, "shape"),
            (np.zeros((4, 12)), np.zeros((4, 5), np.float32), errors.DtypeError, "float64"),
            (np.zeros((4, 12), np.int32), np.zeros((4, 5), np.float32), errors.DtypeError, "int32"),
            (np.zeros((4, 12), ">f4"), np.zeros((4, 5), np.float32), errors.DtypeError, "byte order"),
            ([[0.0] * 12], np.zeros((1, 5), np.float32), errors.DtypeError, "list"),
            (torch.zeros(4, 12), np.zeros((4, 5), np.float32), errors.DtypeError, "two libraries"),
            (torch.zeros(4, 12, device="meta"), torch.zeros(4, 5, device="meta"), errors.DtypeError, "meta"),
            (np.zeros((4, 12), object), np.zeros((4, 5), np.float32), errors.DtypeError, "object"),
        ],
    )
    def test_wrong_arrays(self, old, side, error, words, make_transform):
        with pytest.raises(error, match=words):
            Upgrader(make_transform())(old, side)

    def test_wrong_out(self, make_transform, rows):
        up = Upgrader(make_transform())
        old, side = pair(rows, 4, 12, 5)
        for out, error in [
            (np.zeros((3, 8), np.float32), errors.ShapeError),
            (np.zeros((4, 9), np.float32), errors.ShapeError),
            (np.zeros((4, 8)), errors.DtypeError),
            (np.zeros((4, 16), np.float32)[:, ::2], errors.DtypeError),
        ]:
            with pytest.raises(error):
                up(old, side, out=out)
        frozen = np.zeros((4, 8), np.float32)
        frozen.setflags(write=False)
        with pytest.raises(errors.DtypeError, match="read-only"):
            up(old, side, out=frozen)

    def test_out_may_be_the_input_but_not_overlap_it(self, make_transform, rows):
        layer = Layer(np.eye(4, dtype=np.float32)[::-1].copy(), np.zeros(4, np.float32), relu=False)
        up = Upgrader(TransformSpec(4, 0, 4, (Branch("old", ()),), (layer,)))
        memory = rows(101, 8)
        want = up(memory[:100, :4])
        assert np.array_equal(up(memory[:100, :4].copy()), want)
        beside = memory.copy()
        assert np.array_equal(up(beside[:100, :4], out=beside[:100, 4:]), want)
        place = memory[:100, :4].copy()
        assert np.array_equal(up(place, out=place), want)
        shifted = memory[:, :4].copy()
        with pytest.raises(errors.ShapeError, match="overlaps old"):
            up(shifted[:-1], out=shifted[1:])
        with pytest.raises(errors.ShapeError, match="lie on each other"):
            up(torch.from_numpy(place), out=torch.empty(1, 4).expand(100, 4))

    @pytest.mark.parametrize("threads", [0, -1, 2.5, "2", True, 2**40])
    def test_wrong_threads(self, threads, make_transform):
        with pytest.raises(errors.ConfigError, match="threads"):
            Upgrader(make_transform(), threads=threads)

    @pytest.mark.parametrize("out_dtype", ["banana", "bfloat16", 7, "float64"])
    def test_wrong_out_dtype(self, out_dtype, make_transform, rows):
        with pytest.raises(errors.DtypeError, match="out_dtype"):
            Upgrader(make_transform())(*pair(rows, 4, 12, 5), out_dtype=out_dtype)

    def test_masked_sparse_and_empty_rows(self, make_transform, rows):
        up = Upgrader(make_transform(side_dim=0))
        for old, error in [
            (np.ma.masked_array(rows(4, 12), mask=rows(4, 12) > 0), errors.DtypeError),
            (torch.from_numpy(rows(4, 12)).to_sparse(), errors.DtypeError),
            (np.zeros((4, 0), np.float32), errors.ShapeError),
        ]:
            with pytest.raises(error):
                up(old)

    def test_views_of_torch_are_read_right(self, make_transform, rows):
        up = Upgrader(make_transform(side_dim=0))
        old = torch.from_numpy(rows(4, 12))
        assert torch.equal(up(torch._neg_view(old)), up(-old))
        assert torch.equal(up(old.clone().requires_grad_()), up(old))

    def test_wrong_options(self, make_transform, rows):
        h = make_transform()
        old, side = pair(rows, 4, 12, 5)
        for options, error in [
            ({"device": "cuda"}, errors.DeviceError),
            ({"precision": "fp8"}, errors.ConfigError),
            ({"level": 3}, errors.ConfigError),
            ({"scale_check": "maybe"}, errors.ConfigError),
            ({"level": "avx1024"}, errors.DeviceError),
        ]:
            with pytest.raises(error):
                Upgrader(h, **options)
        with pytest.raises(errors.DtypeError):
            Upgrader(object())
        with pytest.raises(errors.ConfigError):
            Upgrader(h)(old, side, nonfinite="ignore")
        with pytest.raises(errors.ConfigError, match="uncertainty"):
            Upgrader(h)(old, side, return_uncertainty=True)
        with pytest.raises(errors.DtypeError, match="out_dtype"):
            Upgrader(h)(old, side, out_dtype="int8")

    def test_side_given_where_none_is_used(self, make_transform, rows):
        with pytest.raises(errors.ShapeError, match="without side-information"):
            Upgrader(make_transform(side_dim=0))(rows(4, 12), rows(4, 5))

    def test_damaged_packed_weights_are_refused(self, make_transform, rows):
        up = Upgrader(make_transform())
        old, side = pair(rows, 4, 12, 5)
        out, status = np.empty((4, 8), np.float32), np.empty(4, np.uint8)
        for packed in (np.zeros(0, np.uint8), np.zeros(4096, np.uint8), up._packed[:-64].copy()):
            with pytest.raises(errors.DtypeError, match="packed"):
                native().upgrade(packed, "", old, side, out, None, status, 1)
